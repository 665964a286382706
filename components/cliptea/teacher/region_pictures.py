"""Pictures of regions for CLIP: the view with everything else removed, and the region's box at the size of the view.

Shape legend: B views, C crop, g token grid, R regions of all views.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cliptea.method.losses import IGNORE

__all__ = ["RegionPictures", "region_masks", "region_pictures"]


class RegionPictures(NamedTuple):
    """Two pictures of each region, view by view and in the order of their numbers."""

    alone_R3CC: Tensor  # uint8, the view
    mask_RCC: Tensor  # bool, the pixels of the region, which are all that CLIP gets to see of it
    box_R3CC: Tensor  # uint8, the smallest box around the region, stretched to the size of the view
    box_valid_RCC: Tensor  # bool, False on padding


def region_masks(regions_Bgg: Tensor) -> Tensor:
    """(B, R, g, g) bool, tokens of regions 0 to R - 1, where R is the largest number of regions of a view."""
    numbers = regions_Bgg.long().masked_fill(regions_Bgg == IGNORE, -1)
    most = int(numbers.max()) + 1
    return numbers[:, None] == torch.arange(most, device=numbers.device)[:, None, None]


def region_pictures(images_B3CC: Tensor, valid_BCC: Tensor, regions_Bgg: Tensor) -> RegionPictures:
    """The pictures of all regions of some views.

    Args:
        images_B3CC: uint8 RGB.
        valid_BCC: bool, False on padding.
        regions_Bgg: uint8 from `cliptea.method.regions.region_maps`; each view has every number below its largest.
    """
    member_BRgg = region_masks(regions_Bgg)
    view_R, number_R = member_BRgg.flatten(2).any(2).nonzero(as_tuple=True)
    crop, patch = images_B3CC.shape[2], images_B3CC.shape[2] // regions_Bgg.shape[1]
    member_Rgg = member_BRgg[view_R, number_R]
    mask_RCC = member_Rgg.repeat_interleave(patch, 1).repeat_interleave(patch, 2) & valid_BCC[view_R]
    alone_R3CC = images_B3CC[view_R]
    box_R3CC, box_valid_RCC = torch.empty_like(alone_R3CC), torch.empty_like(mask_RCC)
    for k, member_gg in enumerate(member_Rgg):
        rows, columns = (_span(member_gg.any(axis), patch) for axis in (1, 0))
        box_3hw = alone_R3CC[k, :, rows, columns].float()
        scaled = F.interpolate(box_3hw[None], (crop, crop), mode="bilinear", antialias=True, align_corners=False)
        box_R3CC[k] = scaled[0].round().clamp(0, 255).to(torch.uint8)
        valid = valid_BCC[view_R[k], rows, columns][None, None].float()
        box_valid_RCC[k] = F.interpolate(valid, (crop, crop), mode="nearest")[0, 0] > 0
    return RegionPictures(alone_R3CC, mask_RCC, box_R3CC, box_valid_RCC)


def _span(present_g: Tensor, patch: int) -> slice:
    """The pixels from the first to the last present token along one side."""
    inside = present_g.nonzero().flatten()
    return slice(int(inside[0]) * patch, (int(inside[-1]) + 1) * patch)
