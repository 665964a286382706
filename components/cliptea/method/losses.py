"""Per-pixel logits over seen and pseudo classes, and the pixel losses (arXiv 2310.02296, section 3.3, eq. 9-12).

Shapes: B images, D channels, h w features, H W loss size, S seen classes, P pseudo classes (padded), C = S +
P, N (image, present class) pairs.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = [
    "class_logits",
    "class_mask",
    "cross_entropy",
    "dice",
    "focal",
    "labelled_pixels",
    "present_pairs",
    "upsample",
]

IGNORE = 255
IgnoreMode = Literal["exclude", "negative"]


@in_float32
def class_logits(
    features_BDhw: Tensor,
    text_SD: Tensor,
    pseudo_BPD: Tensor | None = None,
    *,
    mode: Literal["dot", "cosine"] = "dot",
    cosine_scale: float = 1 / 0.07,
    feature_norm: Literal["none", "scaled_cosine"] = "none",
) -> Tensor:
    """Score each position against the seen classes followed by the pseudo classes of its image (eq. 9).

    Args:
        features_BDhw: (B, D, h, w) float, the student's dense features R, not normalised, because logits of unit
            features would differ by less than the calibration gamma.
        text_SD: (S, D) float, unit-norm text features (of all N classes at test time).
        pseudo_BPD: (B, P, D) float, unit-norm generated classes; None if there are none.
        mode: for the pseudo classes only: `dot` with R, or `cosine` times `cosine_scale` (the authors' later text).
        cosine_scale: beta, which is unpublished; here the inverse of the temperature in eq. 3.
        feature_norm: `scaled_cosine` uses cosines times `cosine_scale` for all classes.

    Returns:
        (B, C, h, w) float32.
    """
    num_seen = len(text_SD)
    weights_BCD = text_SD.expand(len(features_BDhw), -1, -1)
    if pseudo_BPD is not None:
        weights_BCD = torch.cat([weights_BCD, pseudo_BPD], dim=1)
    logits_BChw = (weights_BCD @ features_BDhw.flatten(2)).unflatten(2, features_BDhw.shape[-2:])
    if mode == "dot" and feature_norm == "none":
        return logits_BChw
    scale_B1hw = cosine_scale / torch.linalg.vector_norm(features_BDhw, dim=1, keepdim=True).clamp(min=1e-6)
    if feature_norm == "scaled_cosine":
        return logits_BChw * scale_B1hw
    return torch.cat([logits_BChw[:, :num_seen], logits_BChw[:, num_seen:] * scale_B1hw], dim=1)


def class_mask(num_seen: int, pseudo_present_BP: Tensor) -> Tensor:
    """Mark the classes that compete in each image: all seen classes and the image's own pseudo classes.

    Args:
        num_seen: S.
        pseudo_present_BP: (B, P) bool.

    Returns:
        (B, C) bool.
    """
    return F.pad(pseudo_present_BP, (num_seen, 0), value=True)


@in_float32
def upsample(logits_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize logits bilinearly, corners not aligned (the MMSegmentation convention).

    Args:
        logits_BChw: (B, C, h, w) float.
        size: (H, W).

    Returns:
        (B, C, H, W) float32.
    """
    if logits_BChw.shape[-2:] == size:
        return logits_BChw
    return F.interpolate(logits_BChw, size, mode="bilinear", align_corners=False)


def present_pairs(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Find the classes that have pixels in each image. Their number is M in the focal and dice losses.

    Args:
        labels_BHW: (B, H, W) integer, class or 255.
        mask_BC: (B, C) bool; pixels of a class outside this mask count as 255.

    Returns:
        (B, C) bool.
    """
    labels_BHW = _drop_absent(labels_BHW, mask_BC)
    images, classes = mask_BC.shape
    # 255 has its own column after the classes, so that no pixels have to be selected.
    column_BHW = torch.where(labels_BHW == IGNORE, classes, labels_BHW)
    first_B11 = (classes + 1) * torch.arange(images, device=labels_BHW.device)[:, None, None]
    counts = torch.bincount((column_BHW + first_B11).flatten(), minlength=images * (classes + 1))
    return counts.unflatten(0, (images, classes + 1))[:, :classes] > 0


def labelled_pixels(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Count the pixels that `cross_entropy` averages over; arguments as in `present_pairs`. Scalar int64."""
    return (_drop_absent(labels_BHW, mask_BC) != IGNORE).sum()


@in_float32
def cross_entropy(logits_BCHW: Tensor, labels_BHW: Tensor, mask_BC: Tensor, *, pixels: Tensor | None = None) -> Tensor:
    """Cross entropy over the classes of each image (eq. 10).

    Args:
        logits_BCHW: (B, C, H, W) float.
        labels_BHW: (B, H, W) integer, class or 255; pixels of an absent class count as 255.
        mask_BC: (B, C) bool, classes that compete in the image.
        pixels: scalar number of labelled pixels, if the mean includes images of other processes; defaults to
            `labelled_pixels` of these images.

    Returns:
        Scalar float32, the sum over these images divided by the number of labelled pixels; 0 if there are none.
    """
    pixels = labelled_pixels(labels_BHW, mask_BC) if pixels is None else pixels
    labels_BHW = _drop_absent(labels_BHW, mask_BC)
    masked_BCHW = logits_BCHW.masked_fill(~mask_BC[:, :, None, None], float("-inf"))
    loss_BHW = F.cross_entropy(masked_BCHW, labels_BHW, ignore_index=IGNORE, reduction="none")
    return loss_BHW.sum() / pixels.clamp(min=1)


@in_float32
def focal(
    logits_BCHW: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore: IgnoreMode = "exclude",
    pairs: Tensor | None = None,
) -> Tensor:
    """Focal loss of each class against the rest, over all classes of an image (NEL in ZegCLIP's form).

    Args:
        logits_BCHW: (B, C, H, W) float, before the sigmoid.
        labels_BHW: (B, H, W) integer, class or 255; pixels of an absent class count as 255.
        mask_BC: (B, C) bool, classes that compete in the image.
        alpha: weight of positives; negatives have 1 - alpha.
        gamma: exponent that reduces the weight of easy pixels.
        ignore: 255 pixels are either omitted (with the mean over the labelled pixels of each image), or negatives of
            every class (with the mean over all its pixels), as in ZegCLIP.
        pairs: scalar M, if it includes images of other processes; defaults to the number of `present_pairs` of these
            images. Values below 1 count as 1.

    Returns:
        Scalar float32: the sum over images and classes of the mean over pixels, divided by M; 0 if no pixel is
        labelled.
    """
    pairs = present_pairs(labels_BHW, mask_BC).sum() if pairs is None else pairs
    labels_BHW = _drop_absent(labels_BHW, mask_BC)
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


@in_float32
def dice(
    logits_BCHW: Tensor,
    labels_BHW: Tensor,
    mask_BC: Tensor,
    *,
    ignore: IgnoreMode = "exclude",
    pairs: Tensor | None = None,
) -> Tensor:
    """Dice loss of the (image, present class) pairs (NEL in ZegCLIP's form).

    Args:
        logits_BCHW: (B, C, H, W) float, before the sigmoid.
        labels_BHW: (B, H, W) integer, class or 255; pixels of an absent class count as 255.
        mask_BC: (B, C) bool, classes that compete in the image.
        ignore: 255 pixels are either omitted, or negatives of every class, as in ZegCLIP.
        pairs: scalar M, if it includes images of other processes; defaults to the number of `present_pairs` of these
            images. Values below 1 count as 1.

    Returns:
        Scalar float32, the sum over pairs divided by M; 0 if no pixel is labelled.
    """
    present_BC = present_pairs(labels_BHW, mask_BC)
    pairs = present_BC.sum() if pairs is None else pairs
    image_N, class_N = present_BC.nonzero(as_tuple=True)
    # Only expand present pairs: a few classes per image instead of all C.
    labels_NHW = _drop_absent(labels_BHW, mask_BC).short()[image_N]
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


def _drop_absent(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Set pixels of absent classes to 255.

    A region can have pixels in the label map but no position in the feature map. It then has no centroid and a logit of
    -inf, and the loss of its pixels would be infinite.
    """
    labels_BHW = labels_BHW.long()
    class_BX = labels_BHW.clamp(max=mask_BC.shape[1] - 1).flatten(1)
    absent_BHW = ~mask_BC.gather(1, class_BX).view_as(labels_BHW)
    return labels_BHW.masked_fill(absent_BHW, IGNORE)
