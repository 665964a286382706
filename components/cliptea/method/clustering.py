"""Spherical K-means of one image's ignored tokens, seeded by windows (section 3.3, eq. 4-5).

Shapes: B images, D channels, g g token grid, P = g*g, L tokens, T tokens of all images, K centres.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["KMeansResult", "PackedSeeds", "SeedMode", "group_sums", "kmeans", "packed_seeds", "window_seeds"]

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
    if mode not in ("sliding", "grid"):
        raise ValueError(f"seed mode is {mode!r}: expected 'sliding' or 'grid'")
    tokens_LD = dense_Dgg[:, ignored_gg].T.contiguous()
    return packed_seeds(tokens_LD, ignored_gg[None], windows, mode)[0]


class PackedSeeds(NamedTuple):
    """Seeds of several images, one image behind the other.

    Attributes:
        seeds_KD: (K of all images, D) float32.
        counts_B: (B,) int64, seeds of each image.
    """

    seeds_KD: Tensor
    counts_B: Tensor


@torch.no_grad()
@in_float32
def packed_seeds(tokens_TD: Tensor, ignored_Bgg: Tensor, windows: Sequence[int], mode: SeedMode) -> PackedSeeds:
    """`window_seeds` of several images.

    Args:
        tokens_TD: (T, D) float, the ignored tokens of all images, in the order of `ignored_Bgg`.
        ignored_Bgg: (B, g, g) bool with T true.
        windows: as there.
        mode: as there.
    """
    images, places = len(ignored_Bgg), ignored_Bgg[0].numel()
    window_W, place_W = _window_places(ignored_Bgg.shape[1:], tuple(windows), mode, ignored_Bgg.device)
    number = int(window_W[-1]) + 1
    ignored_BP = ignored_Bgg.flatten(1)
    token_BP = ignored_BP.flatten().cumsum(0).view(images, places) - 1
    inside_BW = ignored_BP[:, place_W]
    window_BW = window_W + number * torch.arange(images, device=window_W.device)[:, None]
    counts_N = torch.bincount(window_BW[inside_BW], minlength=images * number).view(images, number)
    # The last window is the whole grid: it serves where no other has found a token.
    counts_N[:, -1] *= (counts_N[:, :-1].sum(1) == 0).long()
    inside_BW &= counts_N[:, window_W] > 0
    counts_N = counts_N.flatten()
    counts_K = counts_N[counts_N > 0]
    # A bag per window sums its tokens in a fixed order, on CUDA as well.
    seeds_KD = F.embedding_bag(token_BP[:, place_W][inside_BW], tokens_TD, counts_K.cumsum(0) - counts_K, mode="mean")
    return PackedSeeds(seeds_KD, (counts_N.view(images, number) > 0).sum(1))


@lru_cache(maxsize=8)
def _window_places(
    grid: Sequence[int], windows: tuple[int, ...], mode: SeedMode, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(W,) window of each entry and (W,) token of the grid that it holds; the last window is the whole grid."""
    spans = [span for window in windows for span in _spans(grid, window, mode)]
    spans.append((range(grid[0]), range(grid[1])))
    places = [[row * grid[1] + column for row in rows for column in columns] for rows, columns in spans]
    window_W = [number for number, inside in enumerate(places) for _ in inside]
    return torch.tensor(window_W, device=device), torch.tensor([p for inside in places for p in inside], device=device)


def _spans(grid: Sequence[int], window: int, mode: SeedMode) -> list[tuple[range, range]]:
    """Rows and columns of each window of one size."""

    def along(length: int) -> list[range]:
        if mode == "grid":
            return [range(cell * length // window, -(-(cell + 1) * length // window)) for cell in range(window)]
        return [range(start, start + window) for start in range(0, length - window + 1, math.ceil(window / 2))]

    return list(product(along(grid[0]), along(grid[1])))


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
    cosine_KL = centres_KD @ tokens_LD.T
    assignment_L = tokens_LD.new_full((len(tokens_LD),), -1, dtype=torch.int64)
    counts_K = assignment_L.new_zeros(len(centres_KD))
    for _ in range(rounds):
        previous_L, assignment_L = assignment_L, cosine_KL.argmax(0)
        moved_L = assignment_L != previous_L
        if not bool(moved_L.any()):
            break
        counts_K = torch.bincount(assignment_L, minlength=len(centres_KD))
        # A centre whose tokens are those of the round before keeps its value and its cosines: most do, soon.
        changed_K = torch.bincount(assignment_L[moved_L], minlength=len(centres_KD))
        changed_K += torch.bincount(previous_L[moved_L & (previous_L >= 0)], minlength=len(centres_KD))
        changed_C = ((changed_K > 0) & (counts_K > 0)).nonzero()[:, 0]
        centres_CD = F.normalize(group_sums(tokens_LD, assignment_L, counts_K)[changed_C], dim=1)
        centres_KD[changed_C] = centres_CD
        cosine_KL[changed_C] = centres_CD @ tokens_LD.T
    alive_K = counts_K > 0
    return KMeansResult(centres_KD[alive_K], (alive_K.cumsum(0) - 1)[assignment_L])


def group_sums(tokens_TD: Tensor, group_T: Tensor, counts_K: Tensor) -> Tensor:
    """(K, D) sum of the tokens of each group.

    Args:
        tokens_TD: (T, D) float.
        group_T: (T,) int64, group of each token.
        counts_K: (K,) int64, tokens of each group.
    """
    # A bag per centre sums its tokens in a fixed order; index_add would add in any order on CUDA, and one
    # image could then get two different maps.
    return F.embedding_bag(group_T.argsort(stable=True), tokens_TD, counts_K.cumsum(0) - counts_K, mode="sum")
