"""From logits to classes, with one gamma for each class, or as a ranking that allows any gamma.

Shape legend: H, W image; N classes; S seen classes; R rows of a band.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliptea.segment.image_logits import ImageLogits

__all__ = ["Ranked", "make_mask", "rank"]


class Ranked(NamedTuple):
    """The best seen and the best unseen class of every pixel: enough to predict at any gamma."""

    seen_class: Tensor  # (H, W) int64 train ids
    unseen_class: Tensor
    lead: Tensor  # (H, W) float32: best seen minus best unseen logit

    def predict(self, gamma: float) -> Tensor:
        """(H, W) int64: argmax over all classes after gamma is added to the unseen logits."""
        return torch.where(self.lead < gamma, self.unseen_class, self.seen_class)


def rank(logits: ImageLogits, unseen_ids: list[int]) -> Ranked:
    """Split the argmax over all classes into its seen and its unseen half."""
    seen_ids = [number for number in range(logits.small_hNw.shape[1]) if number not in unseen_ids]
    seen_S, unseen_U = (torch.tensor(ids, device=logits.small_hNw.device) for ids in (seen_ids, sorted(unseen_ids)))
    lead_HW = logits.small_hNw.new_empty(logits.size)
    ranked = Ranked(torch.empty_like(lead_HW, dtype=torch.int64), torch.empty_like(lead_HW, dtype=torch.int64), lead_HW)
    for rows, band_RNW in logits.of(torch.cat([seen_S, unseen_U])).bands():
        best_seen_RW, seen_at_RW = band_RNW[:, : len(seen_S)].max(1)
        best_unseen_RW, unseen_at_RW = band_RNW[:, len(seen_S) :].max(1)
        ranked.seen_class[rows] = seen_S[seen_at_RW]
        ranked.unseen_class[rows] = unseen_U[unseen_at_RW]
        ranked.lead[rows] = best_seen_RW - best_unseen_RW
    return ranked


def make_mask(logits: ImageLogits, gamma_N: Tensor) -> np.ndarray:
    """(H, W) uint8: the best class of each pixel, the first of equal ones.

    Args:
        gamma_N: value that is added to the logits of each class.
    """
    mask_HW = torch.empty(logits.size, dtype=torch.uint8, device=gamma_N.device)
    for rows, band_RNW in logits.bands():
        mask_HW[rows] = (band_RNW + gamma_N[:, None]).max(1).indices  # argmax takes twice as long
    return mask_HW.cpu().numpy()
