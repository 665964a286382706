"""Logits of an image at its own size, of which only some rows and classes are ever held.

Shape legend: N classes; h, w size of the small logits, or of the rows in hand; R rows; W width of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Logits"]


class Logits(NamedTuple):
    """Small logits and the sizes that they are brought to, bilinear, with the centres of pixels at halves.

    They are resized to `padded`, cut to `fitted`, and resized to `size`.
    """

    small_Nhw: Tensor
    padded: tuple[int, int]  # height and width that the student saw
    fitted: tuple[int, int]  # of the image in it
    size: tuple[int, int]  # of the image itself

    def of(self, ids: Sequence[int]) -> Logits:
        """Of some classes."""
        return self._replace(small_Nhw=self.small_Nhw[list(ids)])

    def rows(self, top: int, bottom: int) -> Tensor:
        """(N, R, W): rows `top` to `bottom`, to the last bit the same for every choice of bands."""
        if self.fitted == self.size:
            return self._fitted_rows(top, bottom)
        taps = _Taps.of(self.fitted[0], self.size[0], top, bottom, self.small_Nhw)
        return taps.mix(_widened(self._fitted_rows(taps.first, taps.last + 1), self.size[1]))

    def _fitted_rows(self, top: int, bottom: int) -> Tensor:
        height, width = self.small_Nhw.shape[1:]
        if (height, width) == self.padded:
            return self.small_Nhw[:, top:bottom, : self.fitted[1]]
        taps = _Taps.of(height, self.padded[0], top, bottom, self.small_Nhw)
        wide_NhW = _widened(self.small_Nhw[:, taps.first : taps.last + 1], self.padded[1])
        return taps.mix(wide_NhW)[:, :, : self.fitted[1]]


class _Taps(NamedTuple):
    """Which two source rows each row mixes, counted from the first, and the share of the lower one."""

    first: int
    last: int
    upper_R: Tensor
    lower_R: Tensor
    share_R1: Tensor

    @classmethod
    def of(cls, height: int, enlarged: int, top: int, bottom: int, like: Tensor) -> _Taps:
        """Of rows `top` to `bottom` out of `enlarged`, from `height` source rows, rounded as torch does it."""
        scale = torch.tensor(height, dtype=like.dtype) / enlarged
        source_R = (scale * (torch.arange(top, bottom) + 0.5) - 0.5).clamp(min=0)
        upper_R = source_R.long().clamp(max=height - 1)
        lower_R = (upper_R + 1).clamp(max=height - 1)
        share_R = (source_R - upper_R).clamp(max=1)
        first, last = int(upper_R[0]), int(lower_R[-1])
        where = like.device
        return cls(
            first,
            last,
            (upper_R - first).to(where),
            (lower_R - first).to(where),
            share_R[:, None].to(like.dtype).to(where),
        )

    def mix(self, rows_Nhw: Tensor) -> Tensor:
        """In the order of torch's kernel for large maps; its other kernels round some weights and sums differently."""
        lower_NRw = rows_Nhw.index_select(1, self.lower_R).mul_(self.share_R1)
        return lower_NRw.addcmul_(rows_Nhw.index_select(1, self.upper_R), 1 - self.share_R1)


def _widened(rows_Nhw: Tensor, width: int) -> Tensor:
    size = (rows_Nhw.shape[1], width)
    return nn.functional.interpolate(rows_Nhw[None], size, mode="bilinear", align_corners=False)[0]
