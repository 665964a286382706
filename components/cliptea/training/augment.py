"""Augmentation for the student: photometric changes of a view."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as F

__all__ = ["photometric"]


def photometric(image_3HW: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness by +-32, contrast and saturation by 0.5-1.5, hue by +-18 of 180, each with probability 0.5.

    Ranges and order are those of MMSegmentation: contrast changes before or after saturation and hue.

    Args:
        image_3HW: uint8 RGB.
        rng: source of randomness.
    """
    image_3HW = image_3HW.float() / 255
    brightness, contrast_first, contrast, saturation, hue = rng.random(5) < 0.5
    if brightness:
        image_3HW = (image_3HW + rng.uniform(-32, 32) / 255).clamp(0, 1)
    factor = rng.uniform(0.5, 1.5)
    if contrast and contrast_first:
        image_3HW = (image_3HW * factor).clamp(0, 1)
    if saturation:
        image_3HW = F.adjust_saturation(image_3HW, rng.uniform(0.5, 1.5))
    if hue:
        image_3HW = F.adjust_hue(image_3HW, rng.uniform(-0.1, 0.1))
    if contrast and not contrast_first:
        image_3HW = (image_3HW * factor).clamp(0, 1)
    return (image_3HW * 255).round()
