"""From logits to classes: at one gamma for each class, or ranked so that every gamma can be tried.

Shape legend: H, W image; N classes; R rows of a band; K classes of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliptea.segment.enlarge import Logits

__all__ = ["Ranked", "best", "make_mask", "rank"]

ROWS = 16  # of a band: few, so that little is held; enough that few source rows are widened for two bands
# Logits at the image's size held at once: on a CPU 1 MiB, about its second cache; on a GPU enough for a kernel.
HELD_CPU, HELD_GPU = 1 << 18, 1 << 24


class Ranked(NamedTuple):
    """The best seen and the best unseen class of every pixel: enough to predict at any gamma."""

    seen_class: Tensor  # (H, W) int64 train ids
    unseen_class: Tensor
    lead: Tensor  # (H, W) float32: best seen minus best unseen logit

    def predict(self, gamma: float) -> Tensor:
        """(H, W) int64: argmax over all classes after gamma is added to the unseen logits."""
        return torch.where(self.lead < gamma, self.unseen_class, self.seen_class)


def rank(logits: Logits, unseen_ids: list[int]) -> Ranked:
    """Split the argmax over all classes into its seen and its unseen half."""
    seen_ids = [number for number in range(len(logits.small_Nhw)) if number not in unseen_ids]
    (best_seen, seen_at), (best_unseen, unseen_at) = (best(logits.of(ids)) for ids in (seen_ids, unseen_ids))
    seen, unseen = (torch.tensor(ids, device=best_seen.device) for ids in (seen_ids, unseen_ids))
    return Ranked(seen[seen_at.long()], unseen[unseen_at.long()], best_seen - best_unseen)


def make_mask(logits: Logits, gamma_N: Tensor) -> np.ndarray:
    """(H, W) uint8: the best class of each pixel.

    Args:
        gamma_N: added to each class's logits.
    """
    return best(logits, gamma_N)[1].cpu().numpy()


def best(
    logits: Logits, added_N: Tensor | None = None, rows: int = ROWS, held: int | None = None
) -> tuple[Tensor, Tensor]:
    """The largest logit of each pixel, and its class as uint8, the first of equal ones; both (H, W).

    Args:
        added_N: added to each class's logits at the image's size.
        rows: of a band.
        held: logits of a band that are held at once; None: what suits the device. Neither changes the result.
    """
    if held is None:
        held = HELD_CPU if logits.small_Nhw.device.type == "cpu" else HELD_GPU
    height, width = logits.size
    group = max(1, held // (rows * width))
    bands = [_best_rows(logits, added_N, top, min(top + rows, height), group) for top in range(0, height, rows)]
    values, classes = zip(*bands, strict=True)
    return torch.cat(values), torch.cat(classes)


def _best_rows(logits: Logits, added_N: Tensor | None, top: int, bottom: int, group: int) -> tuple[Tensor, Tensor]:
    """(R, W) both, by groups of classes."""
    number = len(logits.small_Nhw)
    value_RW = class_RW = None
    for start in range(0, number, group):
        ids = range(start, min(start + group, number))
        logits_KRW = logits._replace(small_Nhw=logits.small_Nhw[ids.start : ids.stop]).rows(top, bottom)
        if added_N is not None:
            logits_KRW = logits_KRW + added_N[ids.start : ids.stop, None, None]
        largest_RW = logits_KRW.amax(0)
        ids_K11 = torch.arange(ids.start, ids.stop, dtype=torch.uint8, device=logits_KRW.device)[:, None, None]
        first_RW = torch.where(logits_KRW == largest_RW, ids_K11, ids.stop - 1).amin(0)  # argmax is much slower
        if value_RW is None or class_RW is None:
            value_RW, class_RW = largest_RW, first_RW
        else:
            class_RW = torch.where(largest_RW > value_RW, first_RW, class_RW)
            value_RW = torch.maximum(value_RW, largest_RW)
    assert value_RW is not None
    assert class_RW is not None
    return value_RW, class_RW
