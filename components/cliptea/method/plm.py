"""Pixel Learning Module (arXiv 2310.02296, section 3.3): pseudo labels for pixels without a label of a seen class.

Shapes: B images, A images of all processes, H W pixels, h w features, g g token grid, D channels, P pseudo classes of
an image, Q pseudo classes of a batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from cliptea.method.losses import IGNORE

__all__ = [
    "PseudoLabels",
    "ScopedClasses",
    "ignored_tokens",
    "offset_scope",
    "pseudo_labels",
    "reduce_labels",
]


class PseudoLabels(NamedTuple):
    """Label maps of a batch, completed with pseudo classes.

    Attributes:
        labels_BHW: (B, H, W) int64: seen index, num_seen + region of that image, or 255.
        num_regions_B: (B,) int64.
    """

    labels_BHW: Tensor
    num_regions_B: Tensor


class ScopedClasses(NamedTuple):
    """Pseudo classes of the whole batch, which compete in each image.

    Attributes:
        labels_BHW: (B, H, W) int64, indices into the seen classes followed by the Q columns.
        pseudo_BQD: (B, Q, D) float, the same rows for every image (a view).
        present_BQ: (B, Q) bool.
    """

    labels_BHW: Tensor
    pseudo_BQD: Tensor
    present_BQ: Tensor


def ignored_tokens(labels_BHW: Tensor, valid_BHW: Tensor, grid: tuple[int, int]) -> Tensor:
    """Find the tokens of unlabelled parts of the image, with at least half of their pixels 255 and not padding.

    Args:
        labels_BHW: (B, H, W) integer, seen index or 255.
        valid_BHW: (B, H, W) bool, False on padding.
        grid: rows and columns of tokens.

    Returns:
        (B, g, g) bool.

    Raises:
        ValueError: H x W is not a multiple of the grid.
    """
    rows, columns = _token_size(labels_BHW.shape, grid)
    ignored_BHW = (labels_BHW == IGNORE) & valid_BHW
    count_Bgg = ignored_BHW.unflatten(2, (grid[1], columns)).unflatten(1, (grid[0], rows)).sum((2, 4))
    return 2 * count_Bgg >= rows * columns


def pseudo_labels(labels_BHW: Tensor, valid_BHW: Tensor, regions_Bgg: Tensor, num_seen: int) -> PseudoLabels:
    """Give unlabelled pixels the pseudo class of their region. The ids start again in each image.

    Args:
        labels_BHW: (B, H, W) integer, seen index or 255.
        valid_BHW: (B, H, W) bool, False on padding.
        regions_Bgg: (B, g, g) uint8 from `cliptea.method.regions.region_maps`.
        num_seen: number of seen classes; region k becomes num_seen + k.

    Returns:
        The label map, and for each image its largest region number + 1. Regions without unlabelled pixels count as
        well, so that the numbers match the map.

    Raises:
        ValueError: H x W is not a multiple of the grid, or a pseudo class would get the number 255.
    """
    rows, columns = _token_size(labels_BHW.shape, (regions_Bgg.shape[1], regions_Bgg.shape[2]))
    regions_Bgg = regions_Bgg.long()
    num_regions_B = regions_Bgg.masked_fill(regions_Bgg == IGNORE, -1).flatten(1).amax(1) + 1
    if num_seen + int(num_regions_B.max()) > IGNORE:
        raise ValueError(
            f"{num_seen} seen classes and {int(num_regions_B.max())} regions exceed {IGNORE} labels: "
            f"lower max_regions to {IGNORE - num_seen}"
        )
    regions_BHW = regions_Bgg.repeat_interleave(rows, 1).repeat_interleave(columns, 2)
    free_BHW = (labels_BHW == IGNORE) & valid_BHW & (regions_BHW != IGNORE)
    return PseudoLabels(torch.where(free_BHW, regions_BHW + num_seen, labels_BHW.long()), num_regions_B)


def offset_scope(
    labels_BHW: Tensor, pseudo_APD: Tensor, present_AP: Tensor, num_seen: int, first: int = 0
) -> ScopedClasses:
    """Let the pseudo classes of all images compete in each image (a literal reading of eq. 9).

    Args:
        labels_BHW: (B, H, W) integer from `pseudo_labels`, with ids per image.
        pseudo_APD: (A, P, D) float, generated pseudo classes of each image in the batch; A is larger than B if other
            processes have images of the batch.
        present_AP: (A, P) bool.
        num_seen: number of seen classes.
        first: number in the batch of the first image in `labels_BHW`.

    Returns:
        Class k of image a moves to column a*P + k. Because 255 means "no label", an unused column takes this number if
        there are that many columns, and the later ones move up by one.
    """
    images, per_image = len(labels_BHW), pseudo_APD.shape[1]
    pseudo_QD, present_Q = pseudo_APD.flatten(0, 1), present_AP.flatten()
    gap = IGNORE - num_seen
    if len(pseudo_QD) > gap:
        pseudo_QD = torch.cat([pseudo_QD[:gap], torch.zeros_like(pseudo_QD[:1]), pseudo_QD[gap:]])
        present_Q = torch.cat([present_Q[:gap], torch.zeros_like(present_Q[:1]), present_Q[gap:]])
    labels_BHW = labels_BHW.long()
    offset_B11 = per_image * torch.arange(first, first + images, device=labels_BHW.device)[:, None, None]
    moved_BHW = labels_BHW + offset_B11
    moved_BHW = moved_BHW + (moved_BHW >= IGNORE)
    is_pseudo_BHW = (labels_BHW >= num_seen) & (labels_BHW != IGNORE)
    return ScopedClasses(
        torch.where(is_pseudo_BHW, moved_BHW, labels_BHW),
        pseudo_QD.expand(images, -1, -1),
        present_Q.expand(images, -1),
    )


def reduce_labels(labels_BHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map or mask with nearest neighbours, without a conversion to float.

    Args:
        labels_BHW: (B, H, W) of any type.
        size: rows and columns of the result.

    Returns:
        (B, h, w) of the same type; position i reads floor(i*H/h), like `interpolate(mode="nearest")`.
    """
    (height, width), device = labels_BHW.shape[1:], labels_BHW.device
    row_h = torch.arange(size[0], device=device) * height // size[0]
    column_w = torch.arange(size[1], device=device) * width // size[1]
    return labels_BHW[:, row_h[:, None], column_w]


def _token_size(shape: torch.Size, grid: tuple[int, int]) -> tuple[int, int]:
    _, height, width = shape
    if height % grid[0] or width % grid[1]:
        suitable = f"{max(1, height // grid[0]) * grid[0]}x{max(1, width // grid[1]) * grid[1]}"
        raise ValueError(
            f"labels are {height}x{width} pixels: expected a multiple of the {grid[0]}x{grid[1]} token grid, "
            f"such as {suitable}"
        )
    return height // grid[0], width // grid[1]
