"""The frozen CLIP teacher, through open_clip, structure unchanged (arXiv 2310.02296 section 3.1).

Shape legend: B images, C crop (input size), D joint width, g tokens a side, K texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from cliptea.errors import TeacherError

__all__ = ["Teacher", "load_teacher"]


class Teacher(nn.Module):
    """CLS and dense tokens of images, and text features, in CLIP's joint space."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.clip: Any
        self.mean: Tensor
        self.std: Tensor
        self.clip = model.eval().requires_grad_(False)
        self.clip.visual.output_tokens = True
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.tensor(self.clip.visual.image_mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(self.clip.visual.image_std).view(1, 3, 1, 1))

    @property
    def dim(self) -> int:
        return self.clip.visual.proj.shape[1]

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along height and width."""
        return self.clip.visual.grid_size

    @torch.no_grad()
    def tokens(self, images_B3CC: Tensor, valid_BCC: Tensor) -> tuple[Tensor, Tensor]:
        """CLS tokens (B, D) and dense tokens (B, D, g, g), both after ln_post and the projection, not normalised.

        Args:
            images_B3CC: uint8 RGB.
            valid_BCC: bool, False on padding, which is 0 after normalisation.
        """
        normal = (images_B3CC.float() / 255 - self.mean) / self.std * valid_BCC[:, None]
        visual = self.clip.visual
        cls_BD, tokens_BLE = visual(normal.to(visual.proj.dtype))
        dense_BLD = tokens_BLE @ visual.proj
        height, width = self.grid
        return cls_BD.float(), dense_BLD.float().transpose(1, 2).reshape(len(cls_BD), -1, height, width)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Text features (K, D), unit norm, float32."""
        ids = self.tokenizer(texts).to(self.mean.device)
        return self.clip.encode_text(ids, normalize=True).float()


def load_teacher(weights: str, model: str, crop: int) -> Teacher:
    """Load CLIP for inputs of `crop` x `crop` pixels (position embedding resized).

    Args:
        weights: a folder in open_clip's local layout (architecture, preprocessing and safetensors), a checkpoint
            file of the architecture `model`, or an open_clip pre-training tag of it.
        model: an open_clip architecture; not used with a folder.
        crop: height and width of the input, pixels.

    Raises:
        TeacherError: nothing of that name can be loaded; says which file to provide instead.
    """
    source = f"local-dir:{weights}" if Path(weights).is_dir() else model
    pretrained = None if Path(weights).is_dir() else weights
    try:
        clip = open_clip.create_model(
            source, pretrained=pretrained, force_image_size=crop, precision="fp32", require_pretrained=True
        )
        tokenizer = open_clip.get_tokenizer(source)
    except Exception as error:
        raise TeacherError(
            f"cannot load CLIP {model} from teacher.weights={weights} ({_first_line(error)})",
            "a folder or file with open_clip weights, or a tag that can be downloaded here",
            "without a network, download the weights elsewhere and name the file",
        ) from error
    visual: Any = clip.visual
    if not isinstance(getattr(visual, "proj", None), nn.Parameter):
        raise TeacherError(f"{model} has no projected tokens", "a CLIP with open_clip's vision transformer")
    patch = visual.patch_size[0]
    if crop % patch:
        raise TeacherError(
            f"teacher.crop={crop} is no multiple of the teacher's patch of {patch} pixels",
            f"such as {crop // patch * patch or patch}",
        )
    return Teacher(clip, tokenizer)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
