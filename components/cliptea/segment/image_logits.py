"""Logits of an image at its own size, of which only one band of rows exists at a time.

Shape legend: N classes; h, w size of the small logits; H, W image; R rows of a band; k rows that a band depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from cliptea.method.upsampling import Upsampling

__all__ = ["ImageLogits"]

# Memory of a band. On a CPU it lies in the cache; a GPU needs millions of numbers at a time to be busy.
BAND_MIB = {"cpu": 8, "cuda": 256}


class ImageLogits(NamedTuple):
    """Small logits, and the sizes that they are upsampled to, bilinear, with the centres of pixels at halves.

    They are upsampled to `padded`, cut to `fitted` and resized to `size`.
    """

    small_hNw: Tensor  # float, rows first
    padded: tuple[int, int]  # height and width of the student's input, the padded image
    fitted: tuple[int, int]  # height and width of the image in it
    size: tuple[int, int]  # height and width of the image itself, (H, W)

    def of(self, ids: Tensor) -> ImageLogits:
        """The logits of some classes, in this order."""
        return self._replace(small_hNw=self.small_hNw.index_select(1, ids.to(self.small_hNw.device)))

    def bands(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each band, and its logits (R, N, W), which may share the memory of the small ones."""
        height, number, width = self.small_hNw.shape
        padding = Upsampling((height, width), self.padded, self.small_hNw)
        resizing = Upsampling(self.fitted, self.size, self.small_hNw)
        budget = BAND_MIB.get(self.small_hNw.device.type, BAND_MIB["cpu"]) << 20
        rows = max(1, budget // (number * self.size[1] * self.small_hNw.element_size()))
        for start in range(0, self.size[0], rows):
            stop = min(start + rows, self.size[0])
            first, end = resizing.sources(start, stop)
            fitted_kNw = _band(padding, self.small_hNw, first, end)[:, :, : self.fitted[1]]
            yield slice(start, stop), _band(resizing, fitted_kNw, start, stop, above=first)


def _band(upsampling: Upsampling, maps_hNw: Tensor, start: int, stop: int, above: int = 0) -> Tensor:
    """(R, N, W) as by `Upsampling.band`, without a copy if the size stays the same."""
    if upsampling.unchanged:
        return maps_hNw[start - above : stop - above]
    out_RNW, spare_RNW = maps_hNw.new_empty(2, stop - start, maps_hNw.shape[1], upsampling.width)
    upsampling.band(maps_hNw, start, stop, out_RNW, spare_RNW, above)
    return out_RNW
