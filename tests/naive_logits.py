"""Logits of an image at its own size, all at once."""

from __future__ import annotations

import numpy as np
from benchmarks.whole_logits import whole_logits
from torch import Tensor, nn

from cliptea.config import EvaluationConfig
from cliptea.segment.inference import image_logits

__all__ = ["class_logits"]


def class_logits(student: nn.Module, image_HW3: np.ndarray, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    """(N, H, W), of which masks are the argmax."""
    (logits,) = image_logits(student, [image_HW3], text_ND, config)
    return whole_logits(logits)
