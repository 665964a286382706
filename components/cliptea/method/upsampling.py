"""Bilinear upsampling of a band of rows at a time, and its transpose, for maps too large to be held at once.

Shapes: C channels, h w size of the maps, H W size that they are upsampled to, r rows of a band, k rows of the maps
that a band depends on.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Upsampling", "kept_upsampling"]

# Columns whose transpose is one product. A column depends on two columns of the maps: one product for all columns would
# multiply by zeros nearly everywhere, and many small ones take longer to start than to compute, above all on a GPU.
COLUMNS = {"cpu": 128, "cuda": 4096}


class _Taps(NamedTuple):
    """The two places that each upsampled place lies between."""

    low: Tensor  # int64
    high: Tensor  # int64
    fraction: Tensor  # float, of the way from low to high


class Upsampling:
    """Bilinear upsampling, corners not aligned (the MMSegmentation convention, that of `F.interpolate`).

    Maps have their rows first, (h, C, w), so that a row is one piece of memory. Maps are interpolated without matrix
    products, because a GPU may round their factors to 10 bits. Only gradients go through matrix products.

    Args:
        source: (h, w).
        target: (H, W), any size.
        device: the device of the maps.
        dtype: their floating point type.
    """

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.width = target[1]
        rows, columns = _taps(source[0], target[0], dtype), _taps(source[1], target[1], dtype)
        self._firsts = rows.low.tolist()
        self._ends = (rows.high + 1).tolist()
        low, end = columns.low.tolist(), (columns.high + 1).tolist()
        self._rows, self._columns = (_Taps(*(tap.to(device) for tap in taps)) for taps in (rows, columns))
        self._matrix_Hh, matrix_Ww = _matrix(self._rows, source[0]), _matrix(self._columns, source[1])
        self._blocks = []
        length = COLUMNS.get(device.type, COLUMNS["cpu"])
        for start in range(0, self.width, length):
            stop = min(start + length, self.width)
            own = slice(low[start], end[stop - 1])
            self._blocks.append((slice(start, stop), own, matrix_Ww[start:stop, own].contiguous()))

    def band(self, maps_hCw: Tensor, start: int, stop: int, out_rCW: Tensor, spare_rCW: Tensor) -> None:
        """Upsample to the rows from `start` to `stop`.

        Args:
            maps_hCw: (h, C, w) float.
            start: first row.
            stop: row after the last.
            out_rCW: (r, C, W) float, is overwritten with the result.
            spare_rCW: (r, C, W) float, is overwritten.
        """
        first, end = self._firsts[start], self._ends[stop - 1]
        wide_kCW = _widened(maps_hCw[first:end], self._columns)
        torch.index_select(wide_kCW, 0, self._rows.low[start:stop] - first, out=out_rCW)
        torch.index_select(wide_kCW, 0, self._rows.high[start:stop] - first, out=spare_rCW)
        out_rCW.lerp_(spare_rCW, self._rows.fraction[start:stop, None, None])

    def add_transposed(self, band_rCW: Tensor, start: int, stop: int, maps_hCw: Tensor) -> None:
        """Add to the maps what the transpose of `band` makes of a band: the gradient of one from that of the other.

        Args:
            band_rCW: (r, C, W) float, contiguous.
            start: first row.
            stop: row after the last.
            maps_hCw: (h, C, w) float, is added to.
        """
        first, end = self._firsts[start], self._ends[stop - 1]
        wide_kX = self._matrix_Hh[start:stop, first:end].T @ band_rCW.flatten(1)
        wide_kCW = wide_kX.unflatten(1, band_rCW.shape[1:])
        for columns, own, matrix in self._blocks:
            maps_hCw[first:end, :, own].add_(wide_kCW[:, :, columns] @ matrix)


@lru_cache(maxsize=4)
def kept_upsampling(
    source: tuple[int, int], target: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Upsampling:
    """The upsampling with these arguments, which is made once."""
    return Upsampling(source, target, device, dtype)


def _widened(maps_kCw: Tensor, columns: _Taps) -> Tensor:
    """(k, C, W), the maps with their columns upsampled."""
    if maps_kCw.device.type == "cpu":
        return F.interpolate(maps_kCw, len(columns.low), mode="linear", align_corners=False)
    return _between(maps_kCw, columns)


def _between(maps_kCw: Tensor, columns: _Taps) -> Tensor:
    """The same by reading both neighbours. A GPU takes a tenth of the time of `interpolate`, a CPU takes longer."""
    low_kCW, high_kCW = maps_kCw.index_select(2, columns.low), maps_kCw.index_select(2, columns.high)
    return low_kCW.lerp_(high_kCW, columns.fraction)


def _taps(length: int, size: int, dtype: torch.dtype) -> _Taps:
    places = torch.arange(size, dtype=torch.float64)
    centres = ((places + 0.5) * (length / size) - 0.5).clamp(0, length - 1)
    low = centres.long()
    return _Taps(low, (low + 1).clamp(max=length - 1), (centres - low).to(dtype))


def _matrix(taps: _Taps, length: int) -> Tensor:
    """(size, length), the upsampling of one dimension."""
    matrix = taps.fraction.new_zeros(len(taps.low), length)
    matrix.scatter_add_(1, taps.low[:, None], 1 - taps.fraction[:, None])
    return matrix.scatter_add_(1, taps.high[:, None], taps.fraction[:, None])
