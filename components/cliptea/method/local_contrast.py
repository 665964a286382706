"""Local loss: the student's mean feature of a region learns from CLIP's embedding of it. Not in the paper.

Source: the authors' later text (CLIP-to-Seg Distillation), as described in docs/method.md.

Shapes: R regions of these images, N regions of the whole batch, D channels.
"""

import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["local_loss"]


@in_float32
def local_loss(means_RD: Tensor, positive_R: Tensor, tokens_ND: Tensor, temperature: float = 0.07) -> Tensor:
    """Contrast each region's mean feature with CLIP's embeddings of all regions of the batch (InfoNCE on cosines).

    Args:
        means_RD: (R, D) float, the student's mean feature of regions.
        positive_R: (R,) int64, row of `tokens_ND` that belongs to each of them.
        tokens_ND: (N, D) float.
        temperature: divides the cosines.

    Returns:
        Scalar float32, the sum over R; 0 without regions.
    """
    if len(means_RD) == 0:
        return means_RD.sum()
    logits_RN = F.normalize(means_RD, dim=1) @ F.normalize(tokens_ND, dim=1).T / temperature
    return F.cross_entropy(logits_RN, positive_R, reduction="sum")
