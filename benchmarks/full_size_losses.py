"""The pixel losses on logits of the image's size by torch's autograd, as a side to measure against.

Shapes: B images, C classes, H W loss size, N (image, present class) pairs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.losses import IGNORE, labelled_pixels, present_pairs
from cliptea.method.pixel_losses import PAPER_WEIGHTS, IgnoreMode, PixelLosses, PixelWeights
from cliptea.method.precision import in_float32

__all__ = ["full_size_losses"]


@in_float32
def full_size_losses(
    logits_BChw: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    weights: PixelWeights = PAPER_WEIGHTS,
    *,
    ignore: IgnoreMode = "exclude",
    pixels: Tensor | None = None,
    pairs: Tensor | None = None,
) -> PixelLosses:
    """What `cliptea.method.pixel_losses` gives, for labels of classes in the mask."""
    logits = F.interpolate(logits_BChw, labels_BHW.shape[1:], mode="bilinear", align_corners=False)
    labels_BHW = labels_BHW.long()
    ce = weights.ce * _cross_entropy(logits, labels_BHW, mask_BC, pixels=pixels)
    focal = weights.focal * _focal(logits, labels_BHW, mask_BC, ignore=ignore, pairs=pairs)
    dice = weights.dice * _dice(logits, labels_BHW, mask_BC, ignore=ignore, pairs=pairs)
    return PixelLosses(ce + focal + dice, ce.detach(), focal.detach(), dice.detach())


def _cross_entropy(logits_BCHW: Tensor, labels_BHW: Tensor, mask_BC: Tensor, *, pixels: Tensor | None = None) -> Tensor:
    pixels = labelled_pixels(labels_BHW, mask_BC) if pixels is None else pixels
    masked_BCHW = logits_BCHW.masked_fill(~mask_BC[:, :, None, None], float("-inf"))
    loss_BHW = F.cross_entropy(masked_BCHW, labels_BHW, ignore_index=IGNORE, reduction="none")
    return loss_BHW.sum() / pixels.clamp(min=1)


def _focal(
    logits_BCHW: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore: IgnoreMode = "exclude",
    pairs: Tensor | None = None,
) -> Tensor:
    pairs = present_pairs(labels_BHW, mask_BC).sum() if pairs is None else pairs
    labelled_BHW = labels_BHW != IGNORE
    if ignore == "exclude":
        weight = labelled_BHW / labelled_BHW.sum((1, 2), keepdim=True).clamp(min=1)
    else:
        weight = (pairs > 0) / labelled_BHW[0].numel()  # without a pair no pixel of the batch is labelled

    # A negative with a logit of -inf costs nothing: this is used for absent classes and each pixel's own class.
    classes_C11 = torch.arange(mask_BC.shape[1], device=labels_BHW.device)[:, None, None]
    left_out_BCHW = (classes_C11 == labels_BHW[:, None]) | ~mask_BC[:, :, None, None]
    negative_BCHW = logits_BCHW.masked_fill(left_out_BCHW, float("-inf"))
    positive_BHW = torch.where(labelled_BHW, -_own_logit(logits_BCHW, labels_BHW), float("-inf"))

    positive_cost_BHW = _FocalCost.apply(positive_BHW, gamma)
    negative_cost_BHW = _FocalCost.apply(negative_BCHW, gamma).sum(1)
    return (weight * (alpha * positive_cost_BHW + (1 - alpha) * negative_cost_BHW)).sum() / pairs.clamp(min=1)


def _dice(
    logits_BCHW: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    *,
    ignore: IgnoreMode = "exclude",
    pairs: Tensor | None = None,
) -> Tensor:
    present_BC = present_pairs(labels_BHW, mask_BC)
    pairs = present_BC.sum() if pairs is None else pairs
    image_N, class_N = present_BC.nonzero(as_tuple=True)
    # Only expand present pairs: a few classes per image instead of all C.
    labels_NHW = labels_BHW.short()[image_N]
    logits_NHW = logits_BCHW[image_N, class_N]
    if ignore == "exclude":
        logits_NHW = logits_NHW.masked_fill(labels_NHW == IGNORE, float("-inf"))
    score_NHW = logits_NHW.sigmoid()
    target_NHW = labels_NHW == class_N[:, None, None]
    overlap_N = (score_NHW * target_NHW).sum((1, 2))
    total_N = score_NHW.sum((1, 2)) + target_NHW.sum((1, 2))
    return (1 - (2 * overlap_N + 1) / (total_N + 1)).sum() / pairs.clamp(min=1)


class _FocalCost(torch.autograd.Function):
    """sigmoid(x)^gamma * softplus(x), the cost of a negative with score x or of a positive with score -x.

    Autograd would store four maps of the size of x (gigabytes for 512 x 512 pixels and 188 classes). This only stores
    x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gamma = gamma
        return x.sigmoid().pow_(gamma).mul_(F.softplus(x))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        score = x.sigmoid()
        slope = F.softplus(x).mul_(1 - score).mul_(ctx.gamma).add_(score)
        return slope.mul_(score.pow_(ctx.gamma)).mul_(grad_outputs[0]), None


def _own_logit(logits_BCHW: Tensor, labels_BHW: Tensor) -> Tensor:
    """Select the logit of each pixel's class, or of class 0 for pixels without a class.

    This uses indexing, because `gather` would keep all logits for its backward pass.
    """
    (images, height, width), device = labels_BHW.shape, labels_BHW.device
    image_B11 = torch.arange(images, device=device)[:, None, None]
    row_H1, column_W = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    class_BHW = labels_BHW.masked_fill(labels_BHW == IGNORE, 0)
    return logits_BCHW[image_B11, class_BHW, row_H1, column_W]
