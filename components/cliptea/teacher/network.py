"""Networks of open_clip for use as a teacher. They are built without random weights, which would be overwritten."""

from __future__ import annotations

import copy
import difflib
from typing import Any

import open_clip
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.overrides import TorchFunctionMode

from cliptea.errors import TeacherError

__all__ = ["architecture", "build_network"]


def architecture(model: str) -> dict[str, Any]:
    """open_clip's description of one of its architectures.

    Raises:
        TeacherError: open_clip has no architecture with that name.
    """
    config = open_clip.get_model_config(model)
    if config is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), 3, 0.4) or ["ViT-B-16-quickgelu"]
        raise TeacherError(f"open_clip has no architecture teacher.model={model}", f"such as {', '.join(near)}")
    return config


def build_network(name: str, config: dict[str, Any], crop: int) -> nn.Module:
    """A CLIP for inputs of `crop` x `crop` pixels with uninitialised parameters.

    Args:
        name: for messages.

    Raises:
        TeacherError: its image tower is not a plain vision transformer with a CLS token after ln_post and a
            projection, or the crop is not a multiple of its patch size.
    """
    config = copy.deepcopy(config)
    custom_text = config.pop("custom_text", False)
    network = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        config["vision_cfg"]["image_size"] = crop
        with _Unfilled():
            clip: Any = network(**config)
    except Exception as error:  # open_clip raises various errors for unsuitable descriptions
        raise TeacherError(f"open_clip cannot build {name} ({' '.join(str(error).split())})") from error
    visual = clip.visual
    if (
        not isinstance(visual, VisionTransformer)
        or visual.attn_pool is not None
        or visual.pool_type != "tok"
        or visual.final_ln_after_pool
    ):
        raise TeacherError(
            f"{name} does not provide CLS and patch tokens in one space",
            "an open_clip vision transformer such as ViT-B-16-quickgelu",
        )
    patch = visual.conv1.stride[0]
    if crop % patch:
        raise TeacherError(
            f"teacher.crop={crop} is not a multiple of the teacher's patch size of {patch} pixels",
            f"such as {crop // patch * patch or patch}",
        )
    return clip


class _Unfilled(TorchFunctionMode):
    """Skips the random initialisation of modules, which takes most of the time for building them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
