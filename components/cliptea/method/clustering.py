"""Spherical K-means of one image's ignored tokens, seeded by windows (section 3.3, eq. 4-5).

Shapes: D channels, g g token grid, L tokens, K centres.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["KMeansResult", "SeedMode", "kmeans", "window_seeds"]

SeedMode = Literal["sliding", "grid"]


class KMeansResult(NamedTuple):
    """Clusters that hold at least one token.

    Attributes:
        centres_KD: (K, D) float32, unit-norm mean of the cluster's unit-norm tokens.
        assignment_L: (L,) int64, centre of each token.
    """

    centres_KD: Tensor
    assignment_L: Tensor


@torch.no_grad()
@in_float32
def window_seeds(
    dense_Dgg: Tensor, ignored_gg: Tensor, windows: Sequence[int] = (3, 7), mode: SeedMode = "sliding"
) -> Tensor:
    """Mean token of the ignored tokens in each window, for windows that hold any.

    Source: eq. 4-5, whose index D(i+s, j+s) and outer sum are malformed: here every window gives its own
    seed. Overlapping windows follow the authors' later text (CLIP-to-Seg); `grid` is eq. 4's K = H/s read
    literally.

    Args:
        dense_Dgg: (D, g, g) float, CLIP's dense tokens.
        ignored_gg: (g, g) bool, tokens to cluster.
        windows: `sliding`: windows of o x o tokens, ceil(o/2) apart, wholly inside the grid; `grid`: o x o
            cells that divide the grid.
        mode: how windows are laid.

    Returns:
        (K, D) float32: window sizes in the given order, each in row-major order. Sliding windows need not
        reach the last row and column, nor fit a small grid: when no window meets an ignored token, the mean
        of all ignored tokens is the only seed, so that K = 0 means that nothing is ignored.

    Raises:
        ValueError: unknown mode.
    """
    mask_1gg = ignored_gg[None].float()
    stacked_Egg = torch.cat([dense_Dgg * mask_1gg, mask_1gg])
    pooled: list[Tensor] = []
    for window in windows:
        if mode == "grid":
            pooled.append(F.adaptive_avg_pool2d(stacked_Egg, window).flatten(1))
        elif mode == "sliding":
            if window <= min(ignored_gg.shape):
                pooled.append(F.avg_pool2d(stacked_Egg, window, stride=math.ceil(window / 2)).flatten(1))
        else:
            raise ValueError(f"seed mode is {mode!r}: expected 'sliding' or 'grid'")
    pooled_KE = torch.cat([*pooled, stacked_Egg.new_zeros(len(stacked_Egg), 0)], dim=1).T
    pooled_KE = pooled_KE[pooled_KE[:, -1] > 0]
    if len(pooled_KE) == 0 and bool(ignored_gg.any()):
        pooled_KE = stacked_Egg.mean((1, 2))[None]
    # Both columns carry the same 1/area, so their ratio is the mean over ignored tokens only.
    return pooled_KE[:, :-1] / pooled_KE[:, -1:]


@torch.no_grad()
@in_float32
def kmeans(tokens_LD: Tensor, seeds_KD: Tensor, rounds: int = 10) -> KMeansResult:
    """Cluster tokens by cosine from given seeds.

    Source: section 3.3 names K-means only; metric and rounds are ours (method.md 5.3). A token goes to the
    centre of largest cosine (ties: the lowest index), a centre without tokens keeps its value and may win
    tokens back. Stops when the assignment repeats the previous one. Deterministic, on CUDA as well.

    Args:
        tokens_LD: (L, D) float, of any norm.
        seeds_KD: (K, D) float, K >= 1 when L >= 1.
        rounds: most rounds of assignment and update, at least 1.

    Returns:
        Surviving centres in seed order; at most K.

    Raises:
        ValueError: rounds below 1.
    """
    if rounds < 1:
        raise ValueError(f"K-means rounds is {rounds}: expected at least 1")
    tokens_LD = F.normalize(tokens_LD, dim=1).contiguous()
    centres_KD = F.normalize(seeds_KD, dim=1)
    assignment_L = tokens_LD.new_full((len(tokens_LD),), -1, dtype=torch.int64)
    counts_K = assignment_L.new_zeros(len(centres_KD))
    for _ in range(rounds):
        previous_L, assignment_L = assignment_L, (tokens_LD @ centres_KD.T).argmax(1)
        if torch.equal(assignment_L, previous_L):
            break
        counts_K = torch.bincount(assignment_L, minlength=len(centres_KD))
        # A bag per centre sums its tokens in a fixed order; index_add would add in any order on CUDA, and one
        # image could then get two different maps.
        order_L, starts_K = assignment_L.argsort(stable=True), counts_K.cumsum(0) - counts_K
        sums_KD = F.embedding_bag(order_L, tokens_LD, starts_K, mode="sum")
        centres_KD = torch.where(counts_K[:, None] > 0, F.normalize(sums_KD, dim=1), centres_KD)
    alive_K = counts_K > 0
    return KMeansResult(centres_KD[alive_K], (alive_K.cumsum(0) - 1)[assignment_L])
