"""Test time: the plain network and text features only (section 3.4).

Shape legend: H, W original size; N classes; D width; h, w fitted size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cliptea.config import EvaluationConfig
from cliptea.data.views import fitted_size
from cliptea.training.augment import normalise

__all__ = ["Ranked", "class_logits", "rank"]


@torch.inference_mode()
def class_logits(student: nn.Module, image_HW3: np.ndarray, text_ND: Tensor, config: EvaluationConfig) -> Tensor:
    """Logits (N, H, W) of all classes at the image's own size: raw features times unit text features.

    The image is fitted into `config.scale` and normalised, seen by the student as a whole or through sliding windows
    whose overlapping logits are averaged (MMSegmentation), and the logits are brought to the image's size.

    Args:
        student: in eval mode; images (1, 3, h, w) -> features (1, D, h/stride, w/stride).
        image_HW3: uint8 RGB.
        text_ND: unit-norm text features of every class.
        config: scale, divisor, and mode with window and stride.
    """
    original = (image_HW3.shape[0], image_HW3.shape[1])
    height, width = fitted_size(original, config.scale)
    if (height, width) != original:
        image_HW3 = np.asarray(Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR))
    image_3hw = torch.from_numpy(image_HW3.copy()).permute(2, 0, 1)
    normal_3hw = normalise(image_3hw, torch.ones(height, width, dtype=torch.bool)).to(text_ND.device)
    whole = config.mode == "whole"
    window = (height, width) if whole else (min(config.window, height), min(config.window, width))
    sums_Nhw = text_ND.new_zeros(len(text_ND), height, width)
    counts_hw = text_ND.new_zeros(height, width)
    for top in _starts(height, window[0], config.stride):
        for left in _starts(width, window[1], config.stride):
            place = (slice(top, top + window[0]), slice(left, left + window[1]))
            sums_Nhw[:, *place] += _window_logits(student, normal_3hw[:, *place], text_ND, config.divisor)
            counts_hw[place] += 1
    return _resize((sums_Nhw / counts_hw)[None], original)[0]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window is moved back so that it ends with the image."""
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def _window_logits(student: nn.Module, normal_3hw: Tensor, text_ND: Tensor, divisor: int) -> Tensor:
    """(N, h, w) logits of a normalised image, which is zero-padded to a multiple of `divisor` for the student."""
    height, width = normal_3hw.shape[1:]
    padded = nn.functional.pad(normal_3hw, (0, -width % divisor, 0, -height % divisor))[None]
    logits_1Nhw = torch.einsum("bdhw,nd->bnhw", student(padded).float(), text_ND)
    return _resize(logits_1Nhw, (padded.shape[2], padded.shape[3]))[0, :, :height, :width]


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if logits.shape[2:] == size:
        return logits
    return nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)


class Ranked(NamedTuple):
    """The best seen and the best unseen class of every pixel: enough to predict at any gamma."""

    seen_class: Tensor  # (H, W) int64 train ids
    unseen_class: Tensor
    lead: Tensor  # (H, W) float32: best seen minus best unseen logit

    def predict(self, gamma: float) -> Tensor:
        """(H, W) int64: argmax over all classes after gamma is added to the unseen logits."""
        return torch.where(self.lead < gamma, self.unseen_class, self.seen_class)


def rank(logits_NHW: Tensor, unseen_ids: list[int]) -> Ranked:
    """Split the argmax over all classes into its seen and its unseen half."""
    unseen = torch.zeros(len(logits_NHW), dtype=torch.bool)
    unseen[unseen_ids] = True
    ids = torch.arange(len(logits_NHW), device=logits_NHW.device)
    unseen = unseen.to(logits_NHW.device)
    best_seen, seen_at = logits_NHW[~unseen].max(0)
    best_unseen, unseen_at = logits_NHW[unseen].max(0)
    return Ranked(ids[~unseen][seen_at], ids[unseen][unseen_at], best_seen - best_unseen)
