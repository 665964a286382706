"""Per-pixel logits over seen and pseudo classes, and which classes have pixels (arXiv 2310.02296, section 3.3, eq. 9).

Shapes: B images, D channels, h w features, H W loss size, S seen classes, P pseudo classes (padded), C = S + P.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = [
    "FeatureNorm",
    "class_logits",
    "class_mask",
    "class_pixels",
    "drop_absent",
    "labelled_pixels",
    "present_pairs",
]

IGNORE = 255
FeatureNorm = Literal["none", "scaled_cosine"]


@in_float32
def class_logits(
    features_BDhw: Tensor,
    text_SD: Tensor,
    pseudo_BPD: Tensor | None = None,
    *,
    mode: Literal["dot", "cosine"] = "dot",
    cosine_scale: float = 1 / 0.07,
    feature_norm: FeatureNorm = "none",
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


def present_pairs(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Find the classes that have pixels in each image. Their number is M in the focal and dice losses.

    Args:
        labels_BHW: (B, H, W) integer, class or 255.
        mask_BC: (B, C) bool; pixels of a class outside this mask count as 255.

    Returns:
        (B, C) bool.
    """
    return class_pixels(drop_absent(labels_BHW, mask_BC), mask_BC.shape[1]) > 0


def labelled_pixels(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Count the pixels that the cross entropy of `pixel_losses` averages over. Scalar int64.

    The arguments are those of `present_pairs`.
    """
    return (drop_absent(labels_BHW, mask_BC) != IGNORE).sum()


def class_pixels(labels_BHW: Tensor, classes: int) -> Tensor:
    """Count the pixels of each class in each image.

    Args:
        labels_BHW: (B, H, W) int64, a class below `classes`, or 255.
        classes: C.

    Returns:
        (B, C) int64.
    """
    images = len(labels_BHW)
    # 255 has its own column after the classes, so that no pixels have to be selected.
    column_BHW = torch.where(labels_BHW == IGNORE, classes, labels_BHW)
    first_B11 = (classes + 1) * torch.arange(images, device=labels_BHW.device)[:, None, None]
    counts = torch.bincount((column_BHW + first_B11).flatten(), minlength=images * (classes + 1))
    return counts.unflatten(0, (images, classes + 1))[:, :classes]


def drop_absent(labels_BHW: Tensor, mask_BC: Tensor) -> Tensor:
    """Set pixels of absent classes to 255.

    A region can have pixels in the label map but no position in the feature map. It then has no centroid and does not
    compete, so there is no class that its pixels could be trained as.

    Args:
        labels_BHW: (B, H, W) integer, class or 255.
        mask_BC: (B, C) bool, classes that compete in the image.

    Returns:
        (B, H, W) int64.
    """
    labels_BHW = labels_BHW.long()
    class_BX = labels_BHW.clamp(max=mask_BC.shape[1] - 1).flatten(1)
    absent_BHW = ~mask_BC.gather(1, class_BX).view_as(labels_BHW)
    return labels_BHW.masked_fill(absent_BHW, IGNORE)
