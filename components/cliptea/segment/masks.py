"""From logits to classes, with one gamma for each class, or as a ranking that allows any gamma.

Shape legend: H, W image; N classes; K classes of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cliptea.segment.image_logits import ImageLogits

__all__ = ["Ranked", "make_mask", "make_sure_mask", "rank"]


class Ranked(NamedTuple):
    """The best seen and the best unseen class of every pixel: enough to predict at any gamma."""

    seen_class: Tensor  # (H, W) int64 train ids
    unseen_class: Tensor
    lead: Tensor  # (H, W) float32: best seen minus best unseen logit

    def predict(self, gamma: float) -> Tensor:
        """(H, W) int64: argmax over all classes after gamma is added to the unseen logits."""
        return torch.where(self.lead < gamma, self.unseen_class, self.seen_class)


def rank(logits: ImageLogits, unseen_ids: list[int]) -> Ranked:
    """The best seen and the best unseen class of each pixel, and the lead of the seen one.

    Args:
        logits: of all classes.
        unseen_ids: train ids of the unseen classes. There must be at least one seen and one unseen class.
    """
    seen_ids = [number for number in range(len(logits.small_Nhw)) if number not in unseen_ids]
    (seen_HW, seen_class_HW), (unseen_HW, unseen_class_HW) = (
        _best_of(logits, ids) for ids in (seen_ids, sorted(unseen_ids))
    )
    return Ranked(seen_class_HW, unseen_class_HW, seen_HW - unseen_HW)


def make_mask(logits: ImageLogits, gamma_N: Tensor) -> np.ndarray:
    """(H, W) uint8: the best class of each pixel, the first of equal ones.

    Args:
        gamma_N: value that is added to the logits of each class.
    """
    return _best(logits, gamma_N)[1].cpu().numpy()


def make_sure_mask(logits: ImageLogits, gamma_N: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The same mask, and the confidence (H, W) float32 of its pixels: the softmax probability of the chosen class.

    The softmax is that of the logits with gamma, at temperature 1, over the classes of these logits.
    """
    best_HW, class_HW = _best(logits, gamma_N)
    sums_HW = torch.zeros_like(best_HW)
    for first, logits_KHW in logits.groups():
        sums_HW += (logits_KHW + _column(gamma_N[first:], logits_KHW) - best_HW).exp_().sum(0)
    return class_HW.cpu().numpy(), (1 / sums_HW).cpu().numpy()


def _best_of(logits: ImageLogits, ids: list[int]) -> tuple[Tensor, Tensor]:
    """`_best` among some classes, with their ids (H, W) as int64."""
    best_HW, place_HW = _best(logits.of(ids))
    return best_HW, torch.tensor(ids, device=best_HW.device)[place_HW.long()]


def _best(logits: ImageLogits, gamma_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest logit (H, W) of each pixel and its class (H, W) uint8, from one group of classes after the other."""
    best_HW = logits.small_Nhw.new_full(logits.size, -torch.inf)
    class_HW = torch.zeros_like(best_HW, dtype=torch.uint8)
    for first, logits_KHW in logits.groups():
        raised_KHW = logits_KHW if gamma_N is None else logits_KHW + _column(gamma_N[first:], logits_KHW)
        del logits_KHW  # a single class of a huge photo takes half a GiB, so nothing stays that is not needed
        largest_HW = raised_KHW.amax(0) if len(raised_KHW) > 1 else raised_KHW[0]
        place_HW = _first_equal(raised_KHW, largest_HW)
        class_HW = torch.where(largest_HW > best_HW, place_HW + first, class_HW)
        torch.maximum(best_HW, largest_HW, out=best_HW)
        del raised_KHW, largest_HW
    return best_HW, class_HW


def _column(gamma_N: Tensor, logits_KHW: Tensor) -> Tensor:
    """The first K values as (K, 1, 1) on the device of the logits."""
    return gamma_N[: len(logits_KHW), None, None].to(logits_KHW.device)


def _first_equal(values_KHW: Tensor, largest_HW: Tensor) -> Tensor:
    """(H, W) uint8: the first class whose value is the largest.

    This is what `max` and `argmax` give, which take twice as long because they compare one number at a time.
    """
    number = len(values_KHW)
    places_K = torch.arange(number, 0, -1, dtype=torch.uint8, device=values_KHW.device)
    equal_KHW = (values_KHW == largest_HW).view(torch.uint8)
    return number - equal_KHW.mul_(places_K[:, None, None]).amax(0)
