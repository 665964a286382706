"""Scores from a confusion matrix. Pixels without a class are ignored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cliptea.data.catalogue import IGNORE
from cliptea.errors import DataError
from cliptea.evaluation.results import Scores

__all__ = ["confusion", "per_class_iou", "score"]


def confusion(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(N, N) int64 pixel counts, with rows for true classes and columns for predicted classes.

    Args:
        truth: integer train ids of any shape, 255 where there is no class.
        predicted: train ids of the same shape, on the same device.
        classes: N.

    Raises:
        DataError: a train id is not that of a class.
    """
    row = torch.where(truth == IGNORE, 0, truth.int() + 1)  # the first for pixels without a class
    pairs = (row * classes + predicted).flatten()
    counts = torch.bincount(pairs, minlength=(classes + 1) * classes)
    if len(counts) > (classes + 1) * classes:
        largest = (len(counts) - 1) // classes - 1
        raise DataError(f"a label map has the train id {largest}", f"ids below {classes}, and 255 for no class")
    return counts[classes:].view(classes, classes)


def per_class_iou(matrix_NN: np.ndarray) -> np.ndarray:
    """(N,) float64 intersection over union; NaN where a class is neither true nor predicted anywhere."""
    matched = np.diag(matrix_NN).astype(np.float64)
    union = matrix_NN.sum(0) + matrix_NN.sum(1) - matched
    return np.divide(matched, union, out=np.full(len(matched), np.nan), where=union > 0)


def score(matrix_NN: np.ndarray, unseen_ids: Sequence[int]) -> Scores:
    """pAcc, mean IoU of the seen and of the unseen classes, and their harmonic mean, from unrounded values.

    A score is None if its classes have no pixels. hIoU is also None if no pixel is truly of an unseen class, or none of
    a seen one: predictions of these classes can only be wrong then, whatever the student has learned.
    """
    iou_N = per_class_iou(matrix_NN)
    unseen = np.zeros(len(iou_N), dtype=bool)
    unseen[list(unseen_ids)] = True
    seen_miou, unseen_miou = _mean(iou_N[~unseen]), _mean(iou_N[unseen])
    pixels = matrix_NN.sum()
    true_N = matrix_NN.sum(1)
    hiou = None
    if seen_miou is not None and unseen_miou is not None and true_N[unseen].any() and true_N[~unseen].any():
        total = seen_miou + unseen_miou
        hiou = 2 * seen_miou * unseen_miou / total if total else 0.0
    return Scores(
        pAcc=float(np.diag(matrix_NN).sum() / pixels) if pixels else None,
        miou_seen=seen_miou,
        miou_unseen=unseen_miou,
        hiou=hiou,
    )


def _mean(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None
