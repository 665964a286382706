"""The formulas of decoders that resize and concatenate all levels first, which the benchmarks compare with ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, relu

__all__ = ["segformer", "segnext"]


def segformer(decoder: Any, maps: Sequence[Tensor]) -> Tensor:
    """The output of a `cliptea.models.segformer.Decoder`."""
    size = [edge // 4 for edge in maps[0].shape[2:]]
    levels = [
        interpolate(
            torch.einsum("bdhw,cd->bchw", one, stage.linear.weight) + stage.linear.bias[:, None, None],
            size,
            mode="bilinear",
            align_corners=False,
        )
        for stage, one in zip(decoder.mlp_stage, reversed(maps[-4:]), strict=True)
    ]
    return decoder.fuse_stage(torch.cat(levels, dim=1))


def segnext(decoder: Any, maps: Sequence[Tensor]) -> Tensor:
    """The output of a `cliptea.models.hamburger.LightHam`."""
    size = maps[1].shape[2:]
    resized = [interpolate(one, size, mode="bilinear", align_corners=False) for one in maps[1:]]
    x_BChw = decoder.squeeze(torch.cat(resized, dim=1))
    return decoder.align(relu(x_BChw + decoder.ham_out(decoder.ham(relu(decoder.ham_in(x_BChw))))))
