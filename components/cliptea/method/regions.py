"""Region maps (arXiv 2310.02296, section 3.3): the ignored tokens of each image, divided into regions.

The paper's partition clusters the tokens with K-means and fuses similar clusters. The tokens and centres of all images
are packed one after another, so that only ignored tokens take time. On a GPU, and for small grids on a CPU, calls cost
more than arithmetic. There, every round works on all images, and only the table of cosines is padded to the largest
image. For large grids on a CPU, images are processed one after another without padding.

Shapes: B images, D channels, g g token grid, T tokens of all images, K largest number of centres of an image.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from cliptea.method.clustering import SeedMode, kmeans, pack, window_seeds
from cliptea.method.fusion import fuse
from cliptea.method.losses import IGNORE
from cliptea.method.normalised_cut import affinity, normalised_cut
from cliptea.method.precision import in_float32

__all__ = ["PartitionSettings", "region_maps"]

SMALL = 16 * 16  # tokens of an image up to which batching is faster on a CPU: 9 times at 8x8, 0.4 times at 32x32


class PartitionSettings(Protocol):
    """How tokens are divided into regions. `ClusteringConfig` has these settings."""

    @property
    def partition(self) -> Literal["kmeans", "normalised_cut"]: ...
    @property
    def seed_mode(self) -> SeedMode:
        """How the windows lie for `kmeans`, see `window_seeds`."""
        ...

    @property
    def windows(self) -> Sequence[int]: ...
    @property
    def rounds(self) -> int:
        """Largest number of K-means rounds."""
        ...

    @property
    def fusion_threshold(self) -> float:
        """Lambda of the mask fusion, a cosine."""
        ...

    @property
    def cut_sigma(self) -> float:
        """Of `affinity`, for `normalised_cut`."""
        ...

    @property
    def cut_radius(self) -> float:
        """Radius of `affinity`, relative to the side of the grid."""
        ...

    @property
    def cut_threshold(self) -> float:
        """Theta of `normalised_cut`."""
        ...

    @property
    def max_regions(self) -> int:
        """Largest number of regions of an image, 1 to 255.

        The regions with most tokens are kept in their order (for ties, the first ones), and the tokens of the others
        belong to no region.
        """
        ...


@torch.no_grad()
@in_float32
def region_maps(tokens_BDgg: Tensor, ignored_Bgg: Tensor, settings: PartitionSettings) -> Tensor:
    """Divide the ignored tokens of each image into regions.

    The map of an image does not depend on other images, except when rounding breaks a tie of cosines differently.

    Args:
        tokens_BDgg: (B, D, g, g) float of any precision, tokens of CLIP; the computation uses float32.
        ignored_Bgg: (B, g, g) bool.
        settings: how to divide them.

    Returns:
        (B, g, g) uint8, region of each token, 0, 1, ...; 255 for none.

    Raises:
        ValueError: max_regions does not fit a uint8 map.
    """
    if not 1 <= settings.max_regions <= IGNORE:
        raise ValueError(f"max_regions is {settings.max_regions}: expected 1 to {IGNORE}, since a region map is uint8")
    alone = settings.partition == "normalised_cut" or (not tokens_BDgg.is_cuda and ignored_Bgg[0].numel() > SMALL)
    size = 1 if alone else len(tokens_BDgg)
    parts = zip(tokens_BDgg.split(size), ignored_Bgg.split(size), strict=True)
    return torch.cat([_region_maps(*part, settings, alone) for part in parts])


def _region_maps(tokens_BDgg: Tensor, ignored_Bgg: Tensor, settings: PartitionSettings, alone: bool) -> Tensor:
    regions_Bgg = torch.full_like(ignored_Bgg, IGNORE, dtype=torch.uint8)
    if not bool(ignored_Bgg.any()):
        return regions_Bgg
    # Keep both layouts: another one rounds differently, and could break ties differently from stored maps.
    tokens_TD = tokens_BDgg[0, :, ignored_Bgg[0]].T if alone else tokens_BDgg.permute(0, 2, 3, 1)[ignored_Bgg]
    tokens = pack(ignored_Bgg.flatten(1).sum(1))
    if settings.partition == "normalised_cut":
        radius = settings.cut_radius * max(ignored_Bgg.shape[1:])
        weight_TT = affinity(tokens_TD, ignored_Bgg[0].nonzero(), settings.cut_sigma, radius)
        region_T = normalised_cut(weight_TT, settings.cut_threshold)
        most = int(region_T.max()) + 1
    else:
        seeds_ND, seeds_B = window_seeds(tokens_TD, ignored_Bgg, settings.windows, settings.seed_mode)
        centres = pack(seeds_B)
        centres_ND, assignment_T = kmeans(tokens_TD, tokens, seeds_ND, centres, settings.rounds, moved_only=alone)
        alive_N = torch.bincount(assignment_T, minlength=len(centres_ND)) > 0
        group_BK = fuse(centres.padded(centres_ND), centres.padded(alive_N), settings.fusion_threshold)
        region_T, most = group_BK[centres.image, centres.place][assignment_T], group_BK.shape[1]
    kept_T = _keep_largest(region_T, tokens.image, torch.Size((len(ignored_Bgg), most)), settings.max_regions)
    regions_Bgg[ignored_Bgg] = kept_T.to(torch.uint8)
    return regions_Bgg


def _keep_largest(region_T: Tensor, image_T: Tensor, shape: torch.Size, max_regions: int) -> Tensor:
    """(T,) renumbered regions of each image: its `max_regions` largest in their order, 255 for the others."""
    counts_BK = torch.bincount(image_T * shape[1] + region_T, minlength=shape.numel()).view(shape)
    kept_BK = torch.zeros_like(counts_BK, dtype=torch.bool)
    kept_BK.scatter_(1, counts_BK.argsort(dim=1, descending=True, stable=True)[:, :max_regions], True)
    number_BK = (kept_BK.cumsum(1) - 1).masked_fill(~kept_BK, IGNORE)
    return number_BK[image_T, region_T]
