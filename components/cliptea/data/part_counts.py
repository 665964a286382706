"""Counts what the images of "train" or "val" show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["PartCounts"]


@dataclass
class PartCounts:
    """What images show that can be used, be it all images of a part or a few."""

    images: int = 0
    turned: list[str] = field(default_factory=list)  # names of the images that EXIF turns
    without: list[str] = field(default_factory=list)  # names of the images without a pixel of a seen class
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # of each train id
    shown_in: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # images that have the train id

    def add_image(self, name: str, pixels: np.ndarray, turned: bool, seen_ids: Sequence[int]) -> None:
        """Count an image.

        Args:
            pixels: (256,) int64, its pixels of each train id.
        """
        self.images += 1
        self.turned += [name] * turned
        self.without += [name] * (not pixels[seen_ids].any())
        self.pixels += pixels
        self.shown_in += pixels > 0

    def add(self, other: PartCounts) -> None:
        """Count the images of `other`, which come next."""
        self.images += other.images
        self.turned += other.turned
        self.without += other.without
        self.pixels += other.pixels
        self.shown_in += other.shown_in
