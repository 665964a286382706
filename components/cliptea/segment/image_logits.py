"""Logits of an image at its own size, of which only those of a few classes exist at a time.

Shape legend: N classes; K classes of a group; h, w size of the small logits; H, W image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["ImageLogits", "resize"]

# Memory of a group's logits. Up to 32 MiB, the C library keeps freed memory; a GPU needs millions of numbers at a time.
GROUP_MIB = {"cpu": 32, "cuda": 256}


class ImageLogits(NamedTuple):
    """Small logits, and the sizes that they are brought to.

    They are resized to `padded`, cut to `fitted` and resized to `size`.
    """

    small_Nhw: Tensor  # float
    padded: tuple[int, int]  # height and width of the student's input, the padded image
    fitted: tuple[int, int]  # height and width of the image in it
    size: tuple[int, int]  # height and width of the image itself, (H, W)

    def of(self, ids: Sequence[int]) -> ImageLogits:
        """The logits of some classes, in this order."""
        return self._replace(small_Nhw=self.small_Nhw[list(ids)])

    def groups(self) -> Iterator[tuple[int, Tensor]]:
        """The first class of each group of classes, and the group's logits (K, H, W), equal for groups of any size."""
        budget = GROUP_MIB.get(self.small_Nhw.device.type, GROUP_MIB["cpu"]) << 20
        length = max(1, budget // (self.size[0] * self.size[1] * self.small_Nhw.element_size()))
        for first in range(0, len(self.small_Nhw), length):
            padded_1Khw = resize(self.small_Nhw[None, first : first + length], self.padded)
            yield first, resize(padded_1Khw[:, :, : self.fitted[0], : self.fitted[1]], self.size)[0]


def resize(logits_BNhw: Tensor, size: Sequence[int]) -> Tensor:
    """(B, N, *size), resized bilinearly, with align_corners=False."""
    if tuple(logits_BNhw.shape[2:]) == tuple(size):
        return logits_BNhw
    return nn.functional.interpolate(logits_BNhw, tuple(size), mode="bilinear", align_corners=False)
