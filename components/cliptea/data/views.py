"""Views, which are deterministic resized crops of an image that teacher and student share.

A view only depends on (seed, image name, view number). The teacher's tokens for it are stored. In training, the student
uses the same view and adds flips and photometric changes, which the teacher does not get.

Shape legend: H, W image; C crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from cliptea.config import TeacherConfig
from cliptea.data.catalogue import IGNORE

__all__ = ["View", "choose_view", "cut_image", "cut_labels", "fitted_size", "generator"]

TRIES = 10


class View(NamedTuple):
    """Resize to `size` (height, width), then cut `crop` x `crop` pixels at (top, left), padded at right and bottom."""

    size: tuple[int, int]
    top: int
    left: int
    crop: int

    @property
    def inside(self) -> tuple[int, int]:
        """Height and width of the part that is not padding."""
        return min(self.crop, self.size[0] - self.top), min(self.crop, self.size[1] - self.left)

    @property
    def valid(self) -> np.ndarray:
        """(C, C) bool, False on padding."""
        mask = np.zeros((self.crop, self.crop), dtype=bool)
        mask[: self.inside[0], : self.inside[1]] = True
        return mask


def generator(*key: int | str) -> np.random.Generator:
    """A random generator that only depends on the key."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def fitted_size(size: tuple[int, int], edges: Sequence[float]) -> tuple[int, int]:
    """(height, width) scaled, ratio kept, so that it fits into a (long, short) edge pair (MMSegmentation)."""
    factor = min(max(edges) / max(size), min(edges) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def choose_view(labels: np.ndarray, name: str, number: int, config: TeacherConfig, seed: int) -> View:
    """The view with this number of an image with (H, W) train labels.

    The ratio is uniform in `ratio_range`. A crop is accepted if it contains more than one labelled class, and no class
    covers `cat_max_ratio` or more of its labelled pixels. Otherwise it is drawn again, up to 10 times. Source:
    MMSegmentation's `RandomResize` and `RandomCrop`.

    Args:
        labels: (H, W) uint8, train ids or 255.
        name: the image, for the random choices.
        number: number of the view among those of the image, from 0.
        config: scale, range of the ratio, crop and `cat_max_ratio`.
        seed: of the random choices.
    """
    rng = generator("view", seed, name, number)
    ratio = rng.uniform(*config.ratio_range)
    size = fitted_size((labels.shape[0], labels.shape[1]), [edge * ratio for edge in config.base_scale])
    scaled = _resized(labels, size, Image.Resampling.NEAREST)
    view = View(size, 0, 0, config.crop)
    for _ in range(TRIES + 1):
        top = int(rng.integers(0, max(size[0] - config.crop, 0) + 1))
        left = int(rng.integers(0, max(size[1] - config.crop, 0) + 1))
        view = View(size, top, left, config.crop)
        counts = np.array(_crop(scaled, view).histogram()[:IGNORE])
        if (counts > 0).sum() > 1 and counts.max() < config.cat_max_ratio * counts.sum():
            break
    return view


def cut_image(image: np.ndarray, view: View) -> np.ndarray:
    """(C, C, 3) uint8 crop of an (H, W, 3) uint8 image, bilinear; padding is 0."""
    return _cut(image, view, Image.Resampling.BILINEAR, 0)


def cut_labels(labels: np.ndarray, view: View) -> np.ndarray:
    """(C, C) uint8 crop of (H, W) uint8 labels, nearest neighbour; padding is 255."""
    return _cut(labels, view, Image.Resampling.NEAREST, IGNORE)


def _cut(array: np.ndarray, view: View, how: Image.Resampling, fill: int) -> np.ndarray:
    cut = np.full((view.crop, view.crop, *array.shape[2:]), fill, dtype=np.uint8)
    cut[: view.inside[0], : view.inside[1]] = np.asarray(_crop(_resized(array, view.size, how), view))
    return cut


def _resized(array: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
    image = Image.fromarray(array)
    return image if array.shape[:2] == size else image.resize((size[1], size[0]), how)


def _crop(scaled: Image.Image, view: View) -> Image.Image:
    """The part of the scaled image that is not padding."""
    height, width = view.inside
    return scaled.crop((view.left, view.top, view.left + width, view.top + height))
