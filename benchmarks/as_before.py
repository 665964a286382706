"""The slower forms that a student's network and its masks had at test time before evaluation was made faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from cliptea.models.segformer import Decoder, FusedAttention, TokensConv, _as_scale_and_shift
from cliptea.segment import masks
from cliptea.segment.image_logits import ImageLogits

__all__ = ["as_before"]


@contextmanager
def as_before() -> Iterator[None]:
    """Use these forms inside the block."""
    with (
        patch.object(FusedAttention, "forward", Attention.forward),
        patch.object(TokensConv, "forward", DWConv.forward),
        patch.object(Decoder, "forward", _decoded),
        patch.object(masks, "_best", _best),
    ):
        yield


def _decoded(self: Decoder, maps: Sequence[Tensor]) -> Tensor:
    """Each level upsampled with the pixels of a channel side by side."""
    size = [edge // 4 for edge in maps[0].shape[2:]]
    fuse, norm, activation = self.fuse_stage
    scale_C, shift_C = _as_scale_and_shift(norm)
    slices = (scale_C[:, None] * fuse.weight[:, :, 0, 0]).chunk(len(self.mlp_stage), dim=1)
    total_BChw = 0
    for stage, weight_CC, map_BDhw in zip(self.mlp_stage, slices, reversed(maps[-len(slices) :]), strict=True):
        weight_CD, bias_C = weight_CC @ stage.linear.weight, weight_CC @ stage.linear.bias + shift_C
        level = conv2d(map_BDhw, weight_CD[:, :, None, None], bias_C)
        total_BChw, shift_C = total_BChw + interpolate(level, size, mode="bilinear", align_corners=False), 0
    return activation(total_BChw)


def _best(logits: ImageLogits, gamma_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest logit of each pixel and its class by `max`, which compares one number at a time."""
    best_HW = logits.small_Nhw.new_full(logits.size, -torch.inf)
    class_HW = torch.zeros_like(best_HW, dtype=torch.uint8)
    for first, logits_KHW in logits.groups():
        gamma_K = None if gamma_N is None else gamma_N[first : first + len(logits_KHW)]
        raised_KHW = logits_KHW if gamma_K is None else logits_KHW + gamma_K[:, None, None]
        largest_HW, place_HW = raised_KHW.max(0)
        class_HW = torch.where(largest_HW > best_HW, place_HW.to(torch.uint8) + first, class_HW)
        best_HW = torch.maximum(best_HW, largest_HW)
    return best_HW, class_HW
