"""From an image to logits with the plain network and text features only (the paper's section 3.4).

Shape legend: B images; H, W original size; N classes; D width; h, w fitted size, or the student's output size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cliptea.config import EvaluationConfig
from cliptea.data.views import fitted_size
from cliptea.finite import require_finite
from cliptea.segment.normalise import normalise

__all__ = ["class_logits", "fitted_logits", "padded_size", "product", "resize", "rounded_up"]


def class_logits(student: nn.Module, image_HW3: np.ndarray, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    """Logits (N, H, W) of all classes at the image's own size: raw features times unit text features.

    The image is resized to fit into `config.scale` and normalised. The student processes the whole image, or sliding
    windows whose overlapping logits are averaged (MMSegmentation). The logits are then resized to the image's size.

    Args:
        student: in eval mode; images (1, 3, h, w) -> features (1, D, h/stride, w/stride).
        image_HW3: uint8 RGB.
        text_ND: unit-norm text features of every class.
        config: scale, divisor, and mode with window and stride.
    """
    (logits_Nhw,) = fitted_logits(student, [image_HW3], text_ND, config)
    return resize(logits_Nhw[None], (image_HW3.shape[0], image_HW3.shape[1]))[0]


@torch.inference_mode()
def fitted_logits(
    student: nn.Module, images: Sequence[np.ndarray], text_ND: Tensor, config: EvaluationConfig
) -> Iterator[Tensor]:
    """Logits (N, h, w) of each image at its fitted size, as in `class_logits`.

    Args:
        images: uint8 RGB. In the mode `whole` they form one batch and must have the same `padded_size`.

    Raises:
        NotFinite: a logit is NaN or infinite.
    """
    for logits_Nhw in _fitted_logits(student, images, text_ND, config):
        require_finite({"a logit": logits_Nhw}, "an image", "check the model, or train it again")
        yield logits_Nhw


def _fitted_logits(
    student: nn.Module, images: Sequence[np.ndarray], text_ND: Tensor, config: EvaluationConfig
) -> Iterator[Tensor]:
    normal = [_fitted(image_HW3, config.scale).to(text_ND.device) for image_HW3 in images]
    if config.mode != "whole":
        yield from (_slide(student, normal_3hw, text_ND, config) for normal_3hw in normal)
        return
    features_BDhw = student(torch.stack([_padded(normal_3hw, config.divisor) for normal_3hw in normal])).float()
    for normal_3hw, features_Dhw in zip(normal, features_BDhw, strict=True):
        yield _enlarged(features_Dhw, text_ND, normal_3hw, config.divisor)


def padded_size(size: tuple[int, int], config: EvaluationConfig) -> tuple[int, int]:
    """Height and width of the student's input for an image of this size in the mode `whole`."""
    return rounded_up(fitted_size(size, config.scale), config.divisor)


def rounded_up(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """The next multiples of the divisor, from (height, width)."""
    return size[0] + -size[0] % divisor, size[1] + -size[1] % divisor


def product(features_BDhw: Tensor, text_ND: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, N, *size) of features and text features."""
    return resize(torch.einsum("bdhw,nd->bnhw", features_BDhw, text_ND), size)


def resize(logits_BNhw: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, *size), bilinear, centres of pixels at halves."""
    if tuple(logits_BNhw.shape[2:]) == tuple(size):
        return logits_BNhw
    return nn.functional.interpolate(logits_BNhw, tuple(size), mode="bilinear", align_corners=False)


def _fitted(image_HW3: np.ndarray, scale: Sequence[int]) -> Tensor:
    """(3, h, w) normalised."""
    height, width = fitted_size((image_HW3.shape[0], image_HW3.shape[1]), scale)
    if (height, width) != image_HW3.shape[:2]:
        image_HW3 = np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR))
    return normalise(torch.from_numpy(image_HW3.copy()).permute(2, 0, 1))


def _slide(student: nn.Module, normal_3hw: Tensor, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    height, width = normal_3hw.shape[1:]
    window = (min(config.window, height), min(config.window, width))
    sums_Nhw = text_ND.new_zeros(len(text_ND), height, width)
    counts_hw = text_ND.new_zeros(height, width)
    for top in _starts(height, window[0], config.stride):
        for left in _starts(width, window[1], config.stride):
            place = (slice(top, top + window[0]), slice(left, left + window[1]))
            part_3hw = normal_3hw[:, *place]
            features_1Dhw = student(_padded(part_3hw, config.divisor)[None]).float()
            sums_Nhw[:, *place] += _enlarged(features_1Dhw[0], text_ND, part_3hw, config.divisor)
            counts_hw[place] += 1
    return sums_Nhw / counts_hw


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side. The last window is moved back so that it ends with the image."""
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def _padded(normal_3hw: Tensor, divisor: int) -> Tensor:
    """Pad with zeros at the right and at the bottom to multiples of `divisor`."""
    size = normal_3hw.shape[1:]
    height, width = rounded_up(size, divisor)
    return nn.functional.pad(normal_3hw, (0, width - size[1], 0, height - size[0]))


def _enlarged(features_Dhw: Tensor, text_ND: Tensor, normal_3hw: Tensor, divisor: int) -> Tensor:
    """(N, h, w) logits of a normalised image, from the features of the padded image."""
    height, width = normal_3hw.shape[1:]
    return product(features_Dhw[None], text_ND, rounded_up((height, width), divisor))[0, :, :height, :width]
