"""The pixel losses as the paper and ZegCLIP write them, in float64: in loops, and on logits of the labels' size."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, log_expit, logsumexp


def loop_cross_entropy(logits, labels, mask):
    logits, costs = logits.double().numpy(), []
    for b, i, j in np.ndindex(*labels.shape):
        if labels[b, i, j] != 255:
            column = logits[b, mask[b].numpy(), i, j]
            costs.append(logsumexp(column) - logits[b, labels[b, i, j], i, j])
    return np.mean(costs)


def pairs_of(labels):
    return [(b, int(c)) for b in range(len(labels)) for c in np.unique(labels[b].numpy()) if c != 255]


def loop_focal(logits, labels, mask, ignore="exclude"):
    logits, total = logits.double().numpy(), 0.0
    for b, c in np.ndindex(*mask.shape):
        if not mask[b, c]:
            continue
        costs = []
        for i, j in np.ndindex(*labels.shape[1:]):
            if ignore == "exclude" and labels[b, i, j] == 255:
                continue
            x = logits[b, c, i, j]
            if labels[b, i, j] == c:
                costs.append(-0.25 * expit(-x) ** 2 * log_expit(x))
            else:
                costs.append(-0.75 * expit(x) ** 2 * log_expit(-x))
        total += np.mean(costs)
    return total / max(1, len(pairs_of(labels)))


def loop_dice(logits, labels, mask, ignore="exclude"):
    total = 0.0
    for b, c in pairs_of(labels):
        counted = labels[b].numpy() != 255 if ignore == "exclude" else np.ones(labels.shape[1:], dtype=bool)
        score, target = expit(logits[b, c].double().numpy())[counted], (labels[b].numpy() == c)[counted]
        total += 1 - (2 * (score * target).sum() + 1) / (score.sum() + target.sum() + 1)
    return total / max(1, len(pairs_of(labels)))


def full_size_losses(logits, labels, mask, ignore="exclude", pixels=None, pairs=None):
    """(3,) float64: cross entropy, focal, dice, with torch's own operators on one-hot targets."""
    logits = F.interpolate(logits.double(), labels.shape[1:], mode="bilinear", align_corners=False)
    labels = labels.long()
    known, number = labels != 255, len(pairs_of(labels))
    pixels = max(1, int(known.sum()) if pixels is None else int(pixels))
    pairs = number if pairs is None else float(pairs)
    masked = logits.masked_fill(~mask[:, :, None, None], float("-inf"))
    ce = F.cross_entropy(masked, labels, ignore_index=255, reduction="sum") / pixels
    target = F.one_hot(labels.masked_fill(~known, logits.shape[1]), logits.shape[1] + 1)[..., :-1]
    target = target.permute(0, 3, 1, 2).double()
    counted = (known if ignore == "exclude" else torch.ones_like(known)).double()[:, None]
    p = logits.sigmoid()
    p_t = p * target + (1 - p) * (1 - target)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    cost = (0.25 * target + 0.75 * (1 - target)) * (1 - p_t) ** 2 * bce * counted
    mean = cost.sum((2, 3)) / counted.sum((2, 3)).clamp(min=1) * (pairs > 0)
    overlap, total = (p * target).sum((2, 3)), (p * counted).sum((2, 3)) + target.sum((2, 3))
    ratio = (1 - (2 * overlap + 1) / (total + 1)) * (target.sum((2, 3)) > 0)
    return torch.stack([ce, (mean * mask).sum() / max(1, pairs), ratio.sum() / max(1, pairs)])
