"""Hamburger: global context by matrix factorisation (arXiv 2109.04553), in the light version of SegNeXt's decoder.

Shape legend: B images, C channels, N = h x w positions, R bases (the rank), h, w size at stride 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, normalize, relu

__all__ = ["NMF", "LightHam", "factorise"]

EPSILON = 1e-6
GROUPS = 32
TRAIN_STEPS, EVAL_STEPS = 6, 7  # those of SegNeXt
EVAL_SEED = 0


def factorise(x_BCN: Tensor, bases_BCR: Tensor, steps: int) -> Tensor:
    """Non-negative matrix factorisation x = bases x coefficients^T by multiplicative updates.

    Coefficients start as the softmax over the bases of x^T bases. Each step updates the coefficients, then the bases;
    the coefficients are updated once more at the end.

    Args:
        x_BCN: float, not negative.
        bases_BCR: float, not negative, columns of unit length.

    Returns:
        The approximation of x, (B, C, N).
    """
    coefficients_BNR = torch.softmax(x_BCN.transpose(1, 2) @ bases_BCR, dim=-1)
    for _ in range(steps):
        coefficients_BNR = _update(coefficients_BNR, x_BCN.transpose(1, 2), bases_BCR)
        bases_BCR = _update(bases_BCR, x_BCN, coefficients_BNR)
    coefficients_BNR = _update(coefficients_BNR, x_BCN.transpose(1, 2), bases_BCR)
    return bases_BCR @ coefficients_BNR.transpose(1, 2)


def _update(factor: Tensor, x: Tensor, other: Tensor) -> Tensor:
    """Lee and Seung's update of `factor` in x = factor x other^T."""
    return factor * (x @ other) / (factor @ (other.transpose(1, 2) @ other) + EPSILON)


class NMF(nn.Module):
    """A low-rank approximation of a non-negative map, always in float32, even under autocast.

    Every call initialises the bases. In training they are random, from torch's own generator, so that training resumes
    exactly from a checkpoint. Otherwise the same fixed values are used for every image, so that the result of an image
    does not depend on other images.
    """

    fixed_CR: Tensor

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(EVAL_SEED)
        self.register_buffer("fixed_CR", torch.rand(channels, rank, generator=generator), persistent=False)

    def forward(self, x_BChw: Tensor) -> Tensor:
        with _no_autocast(x_BChw.device.type):
            x_BCN = x_BChw.float().flatten(2)
            size = (len(x_BCN), *self.fixed_CR.shape)
            bases_BCR = torch.rand(size, device=x_BCN.device) if self.training else self.fixed_CR.float().expand(size)
            steps = TRAIN_STEPS if self.training else EVAL_STEPS
            return factorise(x_BCN, normalize(bases_BCR, dim=1), steps).view_as(x_BChw).to(x_BChw.dtype)


class LightHam(nn.Module):
    """SegNeXt's decoder (arXiv 2209.08575, section 3.2): stages 2 to 4 at stride 8, one Hamburger.

    Args:
        dims: channels of the encoder's four stages.
        channels: width of the Hamburger and of the output.
        rank: bases of the factorisation.
    """

    def __init__(self, dims: Sequence[int], channels: int, rank: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(_conv_norm(sum(dims[1:]), channels), nn.ReLU(inplace=True))
        self.ham_in = nn.Conv2d(channels, channels, 1)
        self.ham = NMF(channels, rank)
        self.ham_out = _conv_norm(channels, channels)
        self.align = nn.Sequential(_conv_norm(channels, channels), nn.ReLU(inplace=True))
        self.apply(_initialise)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 4 to 32 -> (B, channels, h, w) at stride 8."""
        projection, activation = self.squeeze
        convolution, norm = projection.children()
        assert isinstance(convolution, nn.Conv2d)
        x_BChw = activation(norm(_squeezed(convolution.weight, maps[1:])))
        context_BChw = self.ham_out(self.ham(relu(self.ham_in(x_BChw))))
        return self.align(relu(x_BChw + context_BChw))


def _squeezed(weight_CX11: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w): a 1x1 convolution of maps, resized to the first and concatenated along the channels X.

    Upsampling commutes with what mixes channels alone, so that each map is projected at its own size.
    """
    size = maps[0].shape[-2:]
    slices = weight_CX11.split([one.shape[1] for one in maps], dim=1)
    total_BChw, *others = (conv2d(one, weight) for one, weight in zip(maps, slices, strict=True))
    for level in others:
        total_BChw = total_BChw + interpolate(level, size, mode="bilinear", align_corners=False)
    return total_BChw


def _no_autocast(device: str) -> AbstractContextManager:
    available = torch.amp.is_autocast_available(device)  # not on the meta device, which is used to compute shapes
    return torch.autocast(device, enabled=False) if available else nullcontext()


def _conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(GROUPS, outputs))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
