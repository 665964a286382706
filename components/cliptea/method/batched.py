"""Region maps of many images at once (section 3.3).

Tokens and centres are packed, one image behind the other, so that no image pays for tokens that are not ignored. On a
GPU, and for small grids on a CPU, calls cost more than arithmetic: every round works on all images, and only the table
of cosines is padded to the largest. For large grids on a CPU the images follow one another, without any padding.

Shapes: B images, D channels, g g token grid, T tokens of all images, L most tokens, K most centres, N centres of all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.clustering import SeedMode, group_sums, packed_seeds
from cliptea.method.plm import IGNORE, region_map
from cliptea.method.precision import in_float32

__all__ = ["region_maps", "region_maps_at_once"]

SMALL = 16 * 16  # tokens of an image up to which it is faster on a CPU: 9 times at 8x8, 0.4 times at 32x32


def region_maps(
    dense_BDgg: Tensor,
    ignored_Bgg: Tensor,
    windows: Sequence[int],
    mode: SeedMode,
    rounds: int,
    threshold: float,
    max_regions: int = 32,
) -> Tensor:
    """`region_map` of each image of a batch.

    All images at once, cosines are those of `region_map` up to rounding: a tie may fall otherwise than there.

    Args:
        dense_BDgg: (B, D, g, g) float of any precision; computed with in float32.
        ignored_Bgg: (B, g, g) bool.
        windows: as in `region_map`, and so are the others.
        mode: of the seeds.
        rounds: most rounds of K-means.
        threshold: lambda of the mask fusion.
        max_regions: largest number of regions of an image.

    Returns:
        (B, g, g) uint8, region of each token; 255 for none.
    """
    settings = (windows, mode, rounds, threshold, max_regions)
    if dense_BDgg.is_cuda or ignored_Bgg[0].numel() <= SMALL:
        return region_maps_at_once(dense_BDgg, ignored_Bgg, *settings)
    images = zip(dense_BDgg.float(), ignored_Bgg, strict=True)
    return torch.stack([region_map(dense_Dgg, ignored_gg, *settings) for dense_Dgg, ignored_gg in images])


@torch.no_grad()
@in_float32
def region_maps_at_once(
    dense_BDgg: Tensor,
    ignored_Bgg: Tensor,
    windows: Sequence[int],
    mode: SeedMode,
    rounds: int,
    threshold: float,
    max_regions: int,
) -> Tensor:
    """The form of `region_maps` that works on all images in every round."""
    regions_Bgg = torch.full_like(ignored_Bgg, IGNORE, dtype=torch.uint8)
    if not bool(ignored_Bgg.any()):
        return regions_Bgg
    tokens_TD = dense_BDgg.permute(0, 2, 3, 1)[ignored_Bgg]
    seeds_ND, seeds_B = packed_seeds(tokens_TD, ignored_Bgg, windows, mode)
    tokens, centres = _packing(ignored_Bgg.flatten(1).sum(1)), _packing(seeds_B)
    unit_TD = F.normalize(tokens_TD, dim=1)
    centres_ND, assignment_T = _kmeans(unit_TD, tokens, F.normalize(seeds_ND, dim=1), centres, rounds)
    alive_N = torch.bincount(assignment_T, minlength=len(centres_ND)) > 0
    group_BK = _fuse(centres.padded(centres_ND), centres.padded(alive_N), threshold)
    region_T = group_BK[centres.image, centres.place][assignment_T]
    regions_Bgg[ignored_Bgg] = _keep_largest(region_T, tokens.image, group_BK.shape, max_regions).to(torch.uint8)
    return regions_Bgg


class _Packing(NamedTuple):
    """Where rows that are packed, one image behind the other, belong: their image and their place in it."""

    shape: tuple[int, int]  # images, most rows of an image
    image: Tensor
    place: Tensor
    start_B: Tensor

    def padded(self, rows: Tensor) -> Tensor:
        """(images, most rows, ...) of the packed rows; zeros behind the last of each image."""
        table = rows.new_zeros(*self.shape, *rows.shape[1:])
        table[self.image, self.place] = rows
        return table


def _packing(counts_B: Tensor) -> _Packing:
    start_B = counts_B.cumsum(0) - counts_B
    image = torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B)
    place = torch.arange(len(image), device=counts_B.device) - start_B[image]
    return _Packing((len(counts_B), int(counts_B.max())), image, place, start_B)


def _kmeans(
    unit_TD: Tensor, tokens: _Packing, centres_ND: Tensor, centres: _Packing, rounds: int
) -> tuple[Tensor, Tensor]:
    """`kmeans` of all images: (N, D) centres, those without tokens among them, and (T,) the centre of each token.

    An image whose assignment repeats gives the same sums, and so the same centres, in every further round.
    """
    tokens_BDL = tokens.padded(unit_TD).transpose(1, 2)
    absent_BK1 = ~centres.padded(torch.ones_like(centres.image, dtype=torch.bool))[..., None]
    assignment_T = torch.full_like(tokens.image, -1)
    for _ in range(rounds):
        cosine_BKL = torch.bmm(centres.padded(centres_ND), tokens_BDL).masked_fill_(absent_BK1, float("-inf"))
        previous_T = assignment_T
        assignment_T = cosine_BKL.argmax(1)[tokens.image, tokens.place] + centres.start_B[tokens.image]
        if torch.equal(assignment_T, previous_T):
            break
        counts_N = torch.bincount(assignment_T, minlength=len(centres_ND))
        means_ND = F.normalize(group_sums(unit_TD, assignment_T, counts_N), dim=1)
        centres_ND = torch.where(counts_N[:, None] > 0, means_ND, centres_ND)
    return centres_ND, assignment_T


def _fuse(centres_BKD: Tensor, alive_BK: Tensor, threshold: float) -> Tensor:
    """(B, K) int64, `fuse` of the living centres of all images; what the others get means nothing."""
    unit_BKD = F.normalize(centres_BKD, dim=2)
    similarity_BKK = torch.bmm(unit_BKD, unit_BKD.transpose(1, 2))
    similarity_BKK = torch.maximum(similarity_BKK, similarity_BKK.transpose(1, 2))
    similarity_BKK.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    similarity_BKK.masked_fill_(~(alive_BK[:, :, None] & alive_BK[:, None, :]), float("-inf"))
    group_BK = torch.full_like(alive_BK, -1, dtype=torch.int64)
    groups_B1 = torch.zeros_like(group_BK[:, :1])
    image_B = torch.arange(len(group_BK), device=group_BK.device)
    while True:
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


def _keep_largest(region_T: Tensor, image_T: Tensor, shape: torch.Size, max_regions: int) -> Tensor:
    """(T,) regions of each image numbered anew: its `max_regions` largest in their order, 255 for the others."""
    counts_BK = torch.bincount(image_T * shape[1] + region_T, minlength=shape.numel()).view(shape)
    kept_BK = torch.zeros_like(counts_BK, dtype=torch.bool)
    kept_BK.scatter_(1, counts_BK.argsort(dim=1, descending=True, stable=True)[:, :max_regions], True)
    number_BK = (kept_BK.cumsum(1) - 1).masked_fill(~kept_BK, IGNORE)
    return number_BK[image_T, region_T]
