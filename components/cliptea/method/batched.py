"""Region maps of many images at once (section 3.3), packed: no image pays for the size of another.

Shapes: B images, D channels, g g token grid, T ignored tokens of all images, L tokens, K centres.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cliptea.method.clustering import SeedMode
from cliptea.method.plm import region_map

__all__ = ["region_maps"]


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

    Args:
        dense_BDgg: (B, D, g, g) float of any precision; computed with in float32.
        ignored_Bgg: (B, g, g) bool.
        windows, mode, rounds, threshold, max_regions: as in `region_map`.

    Returns:
        (B, g, g) uint8, region of each token; 255 for none.
    """
    settings = (windows, mode, rounds, threshold, max_regions)
    maps = [region_map(d, i, *settings) for d, i in zip(dense_BDgg.float(), ignored_Bgg, strict=True)]
    return torch.stack(maps) if maps else torch.zeros_like(ignored_Bgg, dtype=torch.uint8)
