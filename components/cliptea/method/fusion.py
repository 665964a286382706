"""Mask fusion (section 3.3, Algorithm 1): clusters that CLIP finds alike become one region.

Shapes: K centres, D channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["fuse"]


@torch.no_grad()
@in_float32
def fuse(centres_KD: Tensor, threshold: float = 0.8) -> Tensor:
    """Group centres whose cosine reaches the threshold, most similar pair first.

    Algorithm 1 as amended in method.md 5.4: the row i of the largest remaining similarity gathers every
    remaining centre at least `threshold` from it, and the whole group leaves the matrix. As printed (diagonal
    kept, only one row and column cleared) every centre would be selected once and regions would overlap. No
    transitive merging and no averaging.

    Args:
        centres_KD: (K, D) float, of any norm.
        threshold: lambda, smallest cosine to the group's first centre.

    Returns:
        (K,) int64 group of each centre, numbered in the order of emission: fused groups from the most
        similar, then the centres left alone by index. Every number from 0 to the largest is used.
    """
    unit_KD = F.normalize(centres_KD, dim=1)
    # On the CPU: the loop below decides at every turn, and a turn would cost a device synchronisation.
    similarity_KK = (unit_KD @ unit_KD.T).cpu()
    # The product is symmetric only up to rounding; "first maximum" needs it exact, or i and j change places.
    similarity_KK = torch.maximum(similarity_KK, similarity_KK.T).fill_diagonal_(float("-inf"))
    group_K = torch.full((len(centres_KD),), -1)
    groups = 0
    while len(group_K):
        best_K = similarity_KK.amax(1)
        first = int(best_K.argmax())
        if not best_K[first] >= threshold:
            break
        member_K = similarity_KK[first] >= threshold
        member_K[first] = True
        members = member_K.nonzero()[:, 0]
        group_K[members] = groups
        groups += 1
        similarity_KK.index_fill_(0, members, float("-inf")).index_fill_(1, members, float("-inf"))
    alone_K = group_K < 0
    group_K[alone_K] = torch.arange(groups, groups + int(alone_K.sum()))
    return group_K.to(centres_KD.device)
