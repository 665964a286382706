"""Multi-Scale Convolutional Attention Network, the encoder of SegNeXt (arXiv 2209.08575, section 3.1).

The names of modules are those in published checkpoints.
Shape legend: B images, H, W input size, C channels of a stage, h, w size of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

__all__ = ["MSCAN", "Block", "Gate"]

STRIPS = (7, 11, 21)  # lengths of the strip convolutions, pixels
LAYER_SCALE = 0.01


class MSCAN(nn.Module):
    """Images (B, 3, H, W) -> four maps at strides 4, 8, 16 and 32.

    Args:
        dims: channels of the stages.
        depths: blocks of the stages.
        mlp_ratios: hidden channels of a block's feed-forward part, relative to its channels.
        drop_path: rate of stochastic depth of the last block; it grows linearly from 0 at the first.
    """

    def __init__(self, dims: Sequence[int], depths: Sequence[int], mlp_ratios: Sequence[int], drop_path: float) -> None:
        super().__init__()
        rates = iter([drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))])
        before = 3
        for stage, (dim, depth, ratio) in enumerate(zip(dims, depths, mlp_ratios, strict=True), 1):
            embed = _Stem(dim) if stage == 1 else _Downsample(before, dim)
            blocks = nn.Sequential(*[Block(dim, dim * ratio, next(rates)) for _ in range(depth)])
            self.add_module(f"patch_embed{stage}", embed)
            self.add_module(f"block{stage}", blocks)
            self.add_module(f"norm{stage}", nn.LayerNorm(dim))
            before = dim
        self.stages = range(1, len(dims) + 1)
        self.apply(_initialise)

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        maps, x_BChw = [], images_B3HW
        for stage in self.stages:
            x_BChw = self.get_submodule(f"block{stage}")(self.get_submodule(f"patch_embed{stage}")(x_BChw))
            normed_BhwC = self.get_submodule(f"norm{stage}")(x_BChw.permute(0, 2, 3, 1))
            x_BChw = normed_BhwC.permute(0, 3, 1, 2).contiguous()
            maps.append(x_BChw)
        return maps


class Block(nn.Module):
    """x + s1 A(BN x), then x + s2 F(BN x), with layer scales s1 and s2."""

    def __init__(self, dim: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.attn = nn.BatchNorm2d(dim), _Attention(dim)
        self.norm2, self.mlp = nn.BatchNorm2d(dim), _FeedForward(dim, hidden)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), LAYER_SCALE))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BChw: Tensor) -> Tensor:
        x_BChw = x_BChw + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x_BChw)))
        return x_BChw + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x_BChw)))


class Gate(nn.Module):
    """Multi-scale convolutional attention (eq. 1 and 2), which multiplies the input by convolutions of the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = _depthwise(dim, (5, 5))
        for i, length in enumerate(STRIPS):
            self.add_module(f"conv{i}_1", _depthwise(dim, (1, length)))
            self.add_module(f"conv{i}_2", _depthwise(dim, (length, 1)))
        self.conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        local_BChw = self.conv0(x_BChw)
        scales_BChw = local_BChw
        for i in range(len(STRIPS)):
            strip_BChw = self.get_submodule(f"conv{i}_2")(self.get_submodule(f"conv{i}_1")(local_BChw))
            scales_BChw = scales_BChw + strip_BChw
        return self.conv3(scales_BChw) * x_BChw


class _Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1, self.spatial_gating_unit, self.proj_2 = nn.Conv2d(dim, dim, 1), Gate(dim), nn.Conv2d(dim, dim, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return x_BChw + self.proj_2(self.spatial_gating_unit(nn.functional.gelu(self.proj_1(x_BChw))))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = _depthwise(hidden, (3, 3))
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.dwconv(self.fc1(x_BChw))))


class _Stem(nn.Module):
    """Images to stride 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim // 2),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim),
        )

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.proj(images_B3HW)


class _Downsample(nn.Module):
    """Downsampling by a factor of 2."""

    def __init__(self, before: int, dim: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(before, dim, 3, stride=2, padding=1), nn.BatchNorm2d(dim)

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self.norm(self.proj(x_BChw))


def _depthwise(channels: int, kernel: tuple[int, int]) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=channels)


def _initialise(module: nn.Module) -> None:
    """Normal weights that preserve the variance of gradients, and zero biases, as in the original."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]: every convolution here has one
