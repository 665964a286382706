"""Spherical K-means of the ignored tokens of several images, with seeds from windows.

Source: arXiv 2310.02296, section 3.3, eq. 4 and 5.

Shapes: B images, D channels, g g token grid, P = g*g, T tokens of all images, L largest number of tokens of an image,
N centres of all images, K largest number of centres of an image, W entries of all windows.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.precision import in_float32

__all__ = ["KMeansResult", "Packing", "SeedMode", "Seeds", "kmeans", "pack", "window_seeds"]

SeedMode = Literal["sliding", "grid"]


class Packing(NamedTuple):
    """The image of each packed row and its place in that image. The rows of the images are packed one after another."""

    shape: tuple[int, int]  # number of images, largest number of rows of an image
    image: Tensor  # (rows,) int64
    place: Tensor  # (rows,) int64
    start_B: Tensor  # (B,) int64, packed row of each image's first row

    def padded(self, rows: Tensor) -> Tensor:
        """(images, largest number of rows, ...) of the packed rows, padded with zeros after the rows of each image."""
        table = rows.new_zeros(*self.shape, *rows.shape[1:])
        table[self.image, self.place] = rows
        return table


def pack(counts_B: Tensor) -> Packing:
    """The packing of rows.

    Args:
        counts_B: (B,) int64, rows of each image. At least one of them is not 0.
    """
    start_B = counts_B.cumsum(0) - counts_B
    image = torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)
    place = torch.arange(len(image), device=counts_B.device) - start_B[image]
    return Packing((len(counts_B), int(counts_B.max())), image, place, start_B)


class Seeds(NamedTuple):
    """Seeds of several images, one image after another.

    Attributes:
        seeds_ND: (N, D) float32.
        counts_B: (B,) int64, seeds of each image.
    """

    seeds_ND: Tensor
    counts_B: Tensor


@torch.no_grad()
@in_float32
def window_seeds(
    tokens_TD: Tensor, ignored_Bgg: Tensor, windows: Sequence[int] = (3, 7), mode: SeedMode = "sliding"
) -> Seeds:
    """Mean of the ignored tokens in each window that contains any.

    Source: eq. 4-5. Their index D(i+s, j+s) and outer sum do not fit together, so here every window gives its own seed.
    Overlapping windows follow the authors' later text (CLIP-to-Seg), which lists the starts 0, [o/2], [o], ..., g-o for
    windows of o tokens. `grid` takes K = H/s in eq. 4 literally.

    Args:
        tokens_TD: (T, D) float, the ignored tokens of all images, in the order of `ignored_Bgg`.
        ignored_Bgg: (B, g, g) bool with T true.
        windows: for `sliding`, windows of o x o tokens inside the grid, which start at k * o/2, rounded half up, and at
            the last possible row and column, so that every token is in a window; for `grid`, o x o cells that divide
            the grid.
        mode: layout of the windows.

    Returns:
        Seeds of an image, by window size in the given order, and in row-major order for each size. Sliding windows may
        not fit a small grid. If no window contains an ignored token, the mean of all ignored tokens is the only seed,
        so an image without seeds has no ignored tokens.

    Raises:
        ValueError: unknown mode.
    """
    if mode not in ("sliding", "grid"):
        raise ValueError(f"seed mode is {mode!r}: expected 'sliding' or 'grid'")
    images, places = len(ignored_Bgg), ignored_Bgg[0].numel()
    window_W, place_W = _window_places(ignored_Bgg.shape[1:], tuple(windows), mode, ignored_Bgg.device)
    number = int(window_W[-1]) + 1
    ignored_BP = ignored_Bgg.flatten(1)
    token_BP = ignored_BP.flatten().cumsum(0).view(images, places) - 1
    inside_BW = ignored_BP[:, place_W]
    window_BW = window_W + number * torch.arange(images, device=window_W.device)[:, None]
    counts_N = torch.bincount(window_BW[inside_BW], minlength=images * number).view(images, number)
    # The last window is the whole grid. It is used if no other window contains a token.
    counts_N[:, -1] *= (counts_N[:, :-1].sum(1) == 0).long()
    inside_BW &= counts_N[:, window_W] > 0
    counts_N = counts_N.flatten()
    counts_K = counts_N[counts_N > 0]
    # One bag per window sums its tokens in a fixed order, also on CUDA.
    entries, starts_K = token_BP[:, place_W][inside_BW], counts_K.cumsum(0) - counts_K
    seeds_ND = F.embedding_bag(entries, tokens_TD.contiguous(), starts_K, mode="mean")
    return Seeds(seeds_ND, (counts_N.view(images, number) > 0).sum(1))


@lru_cache(maxsize=8)
def _window_places(
    grid: Sequence[int], windows: tuple[int, ...], mode: SeedMode, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(W,) window of each entry, and (W,) its token of the grid. The last window is the whole grid."""
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
        starts = {(step * window + 1) // 2 for step in range(2 * length)} | {length - window}
        return [range(start, start + window) for start in sorted(starts) if 0 <= start <= length - window]

    return list(product(along(grid[0]), along(grid[1])))


class KMeansResult(NamedTuple):
    """Clusters of several images, one image after another.

    Attributes:
        centres_ND: (N, D) float32, unit norm: the normalised mean of each cluster's unit-norm tokens. A centre without
            tokens keeps its previous value.
        assignment_T: (T,) int64, centre of each token.
    """

    centres_ND: Tensor
    assignment_T: Tensor


@torch.no_grad()
@in_float32
def kmeans(
    tokens_TD: Tensor,
    tokens: Packing,
    seeds_ND: Tensor,
    centres: Packing,
    rounds: int = 10,
    moved_only: bool = False,
) -> KMeansResult:
    """Cluster the tokens of each image by cosine from its seeds.

    Source: section 3.3, which only mentions K-means; the metric and the number of rounds are our choice
    (docs/method.md). Each token goes to the centre with the largest cosine (for ties, the lowest index). A centre
    without tokens keeps its value and can get tokens again. The loop stops when no assignment changes, because further
    rounds would give the same centres. The result is deterministic, also on CUDA.

    Args:
        tokens_TD: (T, D) float, with any norm.
        tokens: the images of the tokens.
        seeds_ND: (N, D) float, at least one for each image with tokens.
        centres: the images of the seeds.
        rounds: largest number of rounds of assignment and update, at least 1.
        moved_only: for a single image, only compare centres that have moved in the previous round, which soon are few.
            This saves arithmetic but adds calls.

    Raises:
        ValueError: rounds below 1.
    """
    if rounds < 1:
        raise ValueError(f"K-means rounds is {rounds}: expected at least 1")
    unit_TD, centres_ND = F.normalize(tokens_TD, dim=1).contiguous(), F.normalize(seeds_ND, dim=1)
    tokens_BDL = tokens.padded(unit_TD).transpose(1, 2)
    absent_BK1 = ~centres.padded(torch.ones_like(centres.image, dtype=torch.bool))[..., None]
    assignment_T = torch.full_like(tokens.image, -1)
    compared_ND, cosine_BKL = centres_ND, torch.empty(0)
    for number in range(rounds):
        if moved_only and number:
            moved_N = (centres_ND != compared_ND).any(1)
            cosine_BKL[0, moved_N] = centres_ND[moved_N] @ tokens_BDL[0]
        else:
            cosine_BKL = torch.bmm(centres.padded(centres_ND), tokens_BDL).masked_fill_(absent_BK1, float("-inf"))
        compared_ND, previous_T = centres_ND, assignment_T
        assignment_T = cosine_BKL.argmax(1)[tokens.image, tokens.place] + centres.start_B[tokens.image]
        if torch.equal(assignment_T, previous_T):
            break
        counts_N = torch.bincount(assignment_T, minlength=len(centres_ND))
        means_ND = F.normalize(_sums(unit_TD, assignment_T, counts_N), dim=1)
        centres_ND = torch.where(counts_N[:, None] > 0, means_ND, centres_ND)
    return KMeansResult(centres_ND, assignment_T)


def _sums(unit_TD: Tensor, centre_T: Tensor, counts_N: Tensor) -> Tensor:
    """(N, D) sum of the tokens of each centre."""
    # One bag per centre sums its tokens in a fixed order. On CUDA, index_add would add in an arbitrary order, and the
    # same image could get different maps.
    return F.embedding_bag(centre_T.argsort(stable=True), unit_TD, counts_N.cumsum(0) - counts_N, mode="sum")
