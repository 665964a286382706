"""Normalisation of the student's images. It is the same in training, evaluation and exported networks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["IMAGE_MEAN", "normalise"]

IMAGE_MEAN = (123.675, 116.28, 103.53)  # RGB, 0-255 (ImageNet, MMSegmentation)
IMAGE_STD = (58.395, 57.12, 57.375)


def normalise(images: Tensor) -> Tensor:
    """Normalise (..., 3, H, W) RGB values 0-255 to float32."""
    mean, std = (torch.tensor(rgb, device=images.device).view(3, 1, 1) for rgb in (IMAGE_MEAN, IMAGE_STD))
    return (images.float() - mean) / std
