"""Region maps (section 3.3): the ignored tokens of each image are clustered, and clusters that are alike are fused.

Tokens and centres are packed, one image behind the other, so that no image pays for tokens that are not ignored. On a
GPU, and for small grids on a CPU, calls cost more than arithmetic: every round works on all images, and only the table
of cosines is padded to the largest. For large grids on a CPU the images follow one another, without any padding.

Shapes: B images, D channels, g g token grid, T tokens of all images, K most centres of an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cliptea.method.clustering import SeedMode, kmeans, pack, window_seeds
from cliptea.method.fusion import fuse
from cliptea.method.plm import IGNORE
from cliptea.method.precision import in_float32

__all__ = ["region_maps"]

SMALL = 16 * 16  # tokens of an image up to which all at once is faster on a CPU: 9 times at 8x8, 0.4 times at 32x32


@torch.no_grad()
@in_float32
def region_maps(
    dense_BDgg: Tensor,
    ignored_Bgg: Tensor,
    windows: Sequence[int],
    mode: SeedMode,
    rounds: int,
    threshold: float,
    max_regions: int = 32,
) -> Tensor:
    """Divide the ignored tokens of each image into regions: seeds, K-means, fusion.

    An image's map does not depend on the others, except where a tie falls otherwise by the rounding of its cosines.

    Args:
        dense_BDgg: (B, D, g, g) float of any precision, CLIP's dense tokens; computed with in float32.
        ignored_Bgg: (B, g, g) bool.
        windows: window sizes of `window_seeds`, tokens.
        mode: seed mode of `window_seeds`.
        rounds: most rounds of K-means.
        threshold: lambda of the mask fusion, a cosine.
        max_regions: largest number of regions of an image, 1 to 255; those with most tokens are kept (ties: the one
            emitted first), their order stays, other tokens belong to none.

    Returns:
        (B, g, g) uint8, region of each token, 0, 1, ...; 255 for none.

    Raises:
        ValueError: max_regions does not fit a uint8 map.
    """
    if not 1 <= max_regions <= IGNORE:
        raise ValueError(f"max_regions is {max_regions}: expected 1 to {IGNORE}, since a region map is uint8")
    alone = not dense_BDgg.is_cuda and ignored_Bgg[0].numel() > SMALL
    size = 1 if alone else len(dense_BDgg)
    parts = zip(dense_BDgg.split(size), ignored_Bgg.split(size), strict=True)
    return torch.cat([_region_maps(*part, windows, mode, rounds, threshold, max_regions, alone) for part in parts])


def _region_maps(
    dense_BDgg: Tensor,
    ignored_Bgg: Tensor,
    windows: Sequence[int],
    mode: SeedMode,
    rounds: int,
    threshold: float,
    max_regions: int,
    alone: bool,
) -> Tensor:
    regions_Bgg = torch.full_like(ignored_Bgg, IGNORE, dtype=torch.uint8)
    if not bool(ignored_Bgg.any()):
        return regions_Bgg
    # Laid out differently, tokens round differently, and a tie falls otherwise than in maps that are stored.
    tokens_TD = dense_BDgg[0, :, ignored_Bgg[0]].T if alone else dense_BDgg.permute(0, 2, 3, 1)[ignored_Bgg]
    seeds_ND, seeds_B = window_seeds(tokens_TD, ignored_Bgg, windows, mode)
    tokens, centres = pack(ignored_Bgg.flatten(1).sum(1)), pack(seeds_B)
    centres_ND, assignment_T = kmeans(tokens_TD, tokens, seeds_ND, centres, rounds, moved_only=alone)
    alive_N = torch.bincount(assignment_T, minlength=len(centres_ND)) > 0
    group_BK = fuse(centres.padded(centres_ND), centres.padded(alive_N), threshold)
    region_T = group_BK[centres.image, centres.place][assignment_T]
    regions_Bgg[ignored_Bgg] = _keep_largest(region_T, tokens.image, group_BK.shape, max_regions).to(torch.uint8)
    return regions_Bgg


def _keep_largest(region_T: Tensor, image_T: Tensor, shape: torch.Size, max_regions: int) -> Tensor:
    """(T,) regions of each image numbered anew: its `max_regions` largest in their order, 255 for the others."""
    counts_BK = torch.bincount(image_T * shape[1] + region_T, minlength=shape.numel()).view(shape)
    kept_BK = torch.zeros_like(counts_BK, dtype=torch.bool)
    kept_BK.scatter_(1, counts_BK.argsort(dim=1, descending=True, stable=True)[:, :max_regions], True)
    number_BK = (kept_BK.cumsum(1) - 1).masked_fill(~kept_BK, IGNORE)
    return number_BK[image_T, region_T]
