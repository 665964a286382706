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
from cliptea.models.student import Student
from cliptea.segment.image_logits import ImageLogits, resize
from cliptea.segment.normalise import normalise

__all__ = ["image_logits", "padded_size", "rounded_up"]

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@torch.inference_mode()
def image_logits(
    student: Student, images: Sequence[np.ndarray], text_ND: Tensor, config: EvaluationConfig
) -> Iterator[ImageLogits]:
    """Logits of all classes for each image.

    They are raw features times unit text features, or their scaled cosines (see `Student.logits`). The image is resized
    to fit into `config.scale` and normalised. The student processes the whole image, or sliding windows whose
    overlapping logits are averaged (MMSegmentation). The logits are then resized to the image's size, which
    `ImageLogits` does when they are needed.

    Args:
        student: in eval mode; images (B, 3, h, w) -> features (B, D, h/stride, w/stride).
        images: (H, W, 3) uint8 RGB each. In the mode `whole` they form one batch and must have the same `padded_size`.
        text_ND: unit-norm text features of every class.
        config: scale, divisor, precision, and mode with window and stride.

    Raises:
        NotFinite: a logit is NaN or infinite.
    """
    for logits in _image_logits(student, images, text_ND, config):
        require_finite({"a logit": logits.small_Nhw}, "an image", "check the model, or train it again")
        yield logits


def _image_logits(
    student: Student, images: Sequence[np.ndarray], text_ND: Tensor, config: EvaluationConfig
) -> Iterator[ImageLogits]:
    normal = [_fitted(image_HW3, config.scale, text_ND.device) for image_HW3 in images]
    sizes = [((one.shape[1], one.shape[2]), image.shape[:2]) for one, image in zip(normal, images, strict=True)]
    if config.mode != "whole":
        for normal_3hw, (fitted, size) in zip(normal, sizes, strict=True):
            yield ImageLogits(_slide(student, normal_3hw, text_ND, config), fitted, fitted, size)
        return
    padded_B3hw = torch.stack([_padded(normal_3hw, config.divisor) for normal_3hw in normal])
    small_BNhw = _small(student, padded_B3hw, text_ND, config)
    for small_Nhw, (fitted, size) in zip(small_BNhw, sizes, strict=True):
        yield ImageLogits(small_Nhw, rounded_up(fitted, config.divisor), fitted, size)


def _small(student: Student, padded_B3hw: Tensor, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    """(B, N, h/stride, w/stride) float32: the student's own logits, computed in `config.precision`."""
    half = HALF.get(config.precision)
    with torch.autocast(padded_B3hw.device.type, half, enabled=half is not None):
        return student.logits(padded_B3hw, text_ND).float()


def padded_size(size: tuple[int, int], config: EvaluationConfig) -> tuple[int, int]:
    """Height and width of the student's input for an image of this size in the mode `whole`."""
    return rounded_up(fitted_size(size, config.scale), config.divisor)


def rounded_up(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """The next multiples of the divisor, from (height, width)."""
    return size[0] + -size[0] % divisor, size[1] + -size[1] % divisor


def _fitted(image_HW3: np.ndarray, scale: Sequence[int], device: torch.device) -> Tensor:
    """(3, h, w) normalised. Bytes go to the device, not floats."""
    height, width = fitted_size((image_HW3.shape[0], image_HW3.shape[1]), scale)
    if (height, width) != image_HW3.shape[:2]:
        image_HW3 = np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR))
    return normalise(torch.from_numpy(image_HW3.copy()).to(device).permute(2, 0, 1))


def _slide(student: Student, normal_3hw: Tensor, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    height, width = normal_3hw.shape[1:]
    window = (min(config.window, height), min(config.window, width))
    sums_Nhw = text_ND.new_zeros(len(text_ND), height, width)
    counts_hw = text_ND.new_zeros(height, width)
    for top in _starts(height, window[0], config.stride):
        for left in _starts(width, window[1], config.stride):
            place = (slice(top, top + window[0]), slice(left, left + window[1]))
            part_3hw = normal_3hw[:, *place]
            padded_13hw = _padded(part_3hw, config.divisor)[None]
            logits_1Nhw = resize(_small(student, padded_13hw, text_ND, config), padded_13hw.shape[2:])
            sums_Nhw[:, *place] += logits_1Nhw[0, :, : window[0], : window[1]]
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
