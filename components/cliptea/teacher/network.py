"""Networks of open_clip for use as a teacher. They are built without random weights, which would be overwritten."""

from __future__ import annotations

import copy
import difflib
from typing import Any

import open_clip
from open_clip.timm_model import TimmModel
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.overrides import TorchFunctionMode

from cliptea.errors import TeacherError, refuse_system
from cliptea.models.unset import ZerosForRandom
from cliptea.teacher.families import require_crop, require_family

__all__ = ["architecture", "build_network", "fit_positions"]


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

    A tower of timm has its own size until `fit_positions`.

    Args:
        name: for messages.

    Raises:
        TeacherError: its image tower has no global token and patch tokens in one space, its text tower is not
            supported, or the crop is not a multiple of its patch size.
    """
    require_family(name, config)
    config = copy.deepcopy(config)
    custom_text = config.pop("custom_text", False)
    network = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        config["vision_cfg"]["image_size"] = crop
        with _Unfilled(), ZerosForRandom():
            clip: Any = network(**config)
    except Exception as error:  # open_clip raises various errors for unsuitable descriptions
        refuse_system(error, f"cannot build {name}")
        raise TeacherError(f"open_clip cannot build {name} ({' '.join(str(error).split())})") from error
    visual = clip.visual
    if isinstance(visual, TimmModel):
        _require_known_head(name, visual.trunk)
        embed: Any = visual.trunk.patch_embed
        patch = embed.img_size[0] // embed.grid_size[0]
    else:
        patch = visual.conv1.stride[0]
    require_crop(crop, patch)
    return clip


def fit_positions(clip: Any, crop: int) -> None:
    """Resize the positions of a network with all its weights for inputs of `crop` x `crop` pixels, if it is timm's."""
    if isinstance(clip.visual, TimmModel):
        clip.visual.set_input_size(crop)


def _require_known_head(name: str, trunk: Any) -> None:
    """Reject heads for which one token alone has no meaning."""
    known = isinstance(trunk, (VisionTransformer, Eva))
    if known and trunk.attn_pool is not None:
        # An attention pool without prefix tokens, or one that gets all of them.
        plain = isinstance(trunk.attn_pool, AttentionPoolLatent) and trunk.attn_pool.pos_embed is None
        known = plain and (isinstance(trunk, Eva) or not trunk.num_prefix_tokens)
    elif known:
        known = trunk.global_pool in ("token", "avg")
    if not known:
        raise TeacherError(
            f"{name} does not provide a global token and patch tokens in one space: the head of timm's "
            f"{type(trunk).__name__} is not known",
            "a vision transformer that docs/models.md lists, such as ViT-B-16-quickgelu",
        )


class _Unfilled(TorchFunctionMode):
    """Skips the random initialisation of modules, which takes most of the time for building them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
