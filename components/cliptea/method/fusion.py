"""Mask fusion (section 3.3, Algorithm 1): clusters that CLIP finds alike become one region.

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

    Algorithm 1 as amended in method.md 5.4: the row i of the largest remaining similarity gathers every
    remaining centre at least `threshold` from it, and the whole group leaves the matrix. As printed (diagonal
    kept, only one row and column cleared) every centre would be selected once and regions would overlap. No
    transitive merging and no averaging.

    Args:
        centres_BKD: (B, K, D) float, of any norm.
        alive_BK: (B, K) bool, False on centres that are none.
        threshold: lambda, smallest cosine to the group's first centre.

    Returns:
        (B, K) int64 group of each centre of an image, numbered in the order of emission: fused groups from the most
        similar, then the centres left alone by index. Every number from 0 to the largest is used. What is not alive
        gets any number.
    """
    unit_BKD = F.normalize(centres_BKD, dim=2)
    similarity_BKK = torch.bmm(unit_BKD, unit_BKD.transpose(1, 2))
    # The product is symmetric only up to rounding; "first maximum" needs it exact, or i and j change places.
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
