"""Logits of an image at its own size, all at once: what bands of rows are held against."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from cliptea.config import EvaluationConfig
from cliptea.segment.enlarge import Logits
from cliptea.segment.inference import image_logits

__all__ = ["class_logits", "enlarged"]


def class_logits(student: nn.Module, image_HW3: np.ndarray, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    """(N, H, W) of one image."""
    (logits,) = image_logits(student, [image_HW3], text_ND, config)
    return enlarged(logits).clone()  # a tensor outside of inference mode


def enlarged(logits: Logits) -> Tensor:
    """(N, H, W) by torch's interpolation of whole maps."""
    padded_NHW = _resized(logits.small_Nhw, logits.padded)
    return _resized(padded_NHW[:, : logits.fitted[0], : logits.fitted[1]], logits.size)


def _resized(maps_Nhw: Tensor, size: tuple[int, int]) -> Tensor:
    return nn.functional.interpolate(maps_Nhw[None], size, mode="bilinear", align_corners=False)[0]
