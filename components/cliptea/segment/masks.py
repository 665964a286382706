"""From logits to classes, with one gamma for each class, or as a ranking that allows any gamma.

Shape legend: H, W image; N classes; h, w size of the resized image; R rows of a band.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliptea.segment.inference import resize

__all__ = ["LARGEST", "Ranked", "make_mask", "rank"]

LARGEST = 1 << 27  # logits at the image's size that are in memory at the same time: 0.5 GiB


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


def make_mask(logits_Nhw: Tensor, size: tuple[int, int], gamma_N: Tensor, largest: int = LARGEST) -> np.ndarray:
    """(H, W) uint8: the best class of each pixel after the logits are resized to the image.

    Args:
        logits_Nhw: logits at the size of the resized image.
        size: height and width of the image.
        gamma_N: value that is added to the logits of each class.
        largest: number of logits at the image's size that are in memory at the same time. Larger images are processed
            in bands of rows, because all logits of a photo for 171 classes would take gigabytes.
    """
    rows = max(1, largest // (len(gamma_N) * size[1]))
    if rows >= size[0]:
        return _argmax(resize(logits_Nhw[None], size)[0], gamma_N)
    bands = (_band(logits_Nhw, size, top, min(top + rows, size[0])) for top in range(0, size[0], rows))
    return np.concatenate([_argmax(band_NRW, gamma_N) for band_NRW in bands])


def _argmax(logits_NHW: Tensor, gamma_N: Tensor) -> np.ndarray:
    return (logits_NHW + gamma_N[:, None, None]).argmax(0).to(torch.uint8).cpu().numpy()


def _band(logits_Nhw: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """(N, R, W): rows `top` to `bottom` of the resized logits. Rows are interpolated as in torch's interpolate."""
    height = logits_Nhw.shape[1]
    rows_R = torch.arange(top, bottom, device=logits_Nhw.device)
    source_R = ((rows_R + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    upper_R = source_R.long().clamp(max=height - 1)
    lower_R = (upper_R + 1).clamp(max=height - 1)
    share_R1 = (source_R - upper_R)[:, None]
    mixed_NRw = logits_Nhw[:, upper_R] * (1 - share_R1) + logits_Nhw[:, lower_R] * share_R1
    return resize(mixed_NRw[None], (bottom - top, size[1]))[0]
