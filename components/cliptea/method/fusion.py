"""Mask fusion (arXiv 2310.02296, section 3.3, Algorithm 1): clusters that are similar for CLIP become one region.

Shapes: B images, K most centres of an image, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["fuse"]


@torch.no_grad()
@in_float32
def fuse(centres_BKD: Tensor, alive_BK: Tensor, threshold: float = 0.8) -> Tensor:
    """Group the centres of each image whose cosine reaches the threshold, most similar pair first.

    This is Algorithm 1 with the changes listed in docs/method.md. The row i with the largest remaining similarity
    collects every remaining centre with a cosine of at least `threshold`, and the whole group is removed from the
    matrix. As printed in the paper (the diagonal is kept, and only one row and column are cleared), every centre would
    be selected once, and regions would overlap. Groups are neither merged transitively nor averaged.

    Args:
        centres_BKD: (B, K, D) float, of any norm.
        alive_BK: (B, K) bool, False for padding and for centres without tokens.
        threshold: lambda, smallest cosine to the first centre of the group.

    Returns:
        (B, K) int64 group of each centre of an image. Fused groups come first, from the most similar, followed by the
        remaining single centres by index. All numbers from 0 to the largest are used. Where `alive_BK` is False, the
        number is -1.
    """
    unit_BKD = F.normalize(centres_BKD, dim=2)
    similarity_BKK = torch.bmm(unit_BKD, unit_BKD.transpose(1, 2))
    # The product is only symmetric up to rounding. Make it exactly symmetric, so that the first maximum is defined.
    similarity_BKK = torch.maximum(similarity_BKK, similarity_BKK.transpose(1, 2))
    similarity_BKK.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    similarity_BKK.masked_fill_(~(alive_BK[:, :, None] & alive_BK[:, None, :]), float("-inf"))
    group_BK = torch.full_like(alive_BK, -1, dtype=torch.int64)
    groups_B1 = torch.zeros_like(group_BK[:, :1])
    image_B = torch.arange(len(group_BK), device=group_BK.device)
    while similarity_BKK.numel():
        best_B, first_B = similarity_BKK.amax(2).max(1)
        active_B1 = (best_B >= threshold)[:, None]
        if not bool(active_B1.any()):
            break
        member_BK = similarity_BKK[image_B, first_B] >= threshold
        member_BK[image_B, first_B] = True
        member_BK &= active_B1
        group_BK = torch.where(member_BK, groups_B1, group_BK)
        groups_B1 = groups_B1 + active_B1
        similarity_BKK.masked_fill_(member_BK[:, :, None] | member_BK[:, None, :], float("-inf"))
    alone_BK = (group_BK < 0) & alive_BK
    return torch.where(alone_BK, groups_B1 + alone_BK.cumsum(1) - 1, group_BK)
