"""Pictures as bytes: photos, label maps, GLM attention (paper Fig. 5) and region maps (Fig. 6).

Small pictures keep their size, so that the page can enlarge them crisply; large ones are reduced to `MAX_EDGE`.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image

from cliptea.data.catalogue import IGNORE
from cliptea.data.colours import coloured, distinct_colours
from cliptea.errors import NotFinite

__all__ = [
    "HIGH", "LOW", "SMALL_EDGE", "data_uri", "heat_overlay", "heat_range", "label_map", "photo", "png", "region_map",
]  # fmt: skip

LOW, HIGH = (38, 112, 204), (226, 78, 22)  # attention below and above uniform
MAX_EDGE = 384  # pixels; the report shows nothing larger
SMALL_EDGE = 128  # up to here photos are PNG, above JPEG
GREY = (0.299, 0.587, 0.114)
OCTAVES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)


def data_uri(picture: bytes) -> str:
    """A PNG or JPEG as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def png(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def photo(image: np.ndarray) -> bytes:
    """A photo: PNG when it is small, else JPEG.

    Args:
        image: (H, W, 3) uint8, RGB.
    """
    return _encode(_shrink(image))


def label_map(labels: np.ndarray) -> bytes:
    """A colour-coded label map as a palette PNG.

    Args:
        labels: (H, W) integer class indices; 255 is neutral grey.
    """
    picture = coloured(np.asarray(labels, dtype=np.uint8))
    return png(picture.resize(_fit(picture.size), Image.Resampling.NEAREST))


def heat_range(maps: Iterable[np.ndarray]) -> float:
    """Number of octaves around uniform attention that contain 99 % of the weights, a shared scale for all pictures.

    Weights of zero do not count. Many are zero if the global token is a maximum.
    """
    logs = [np.abs(_octaves(weights))[np.asarray(weights) > 0] for weights in maps]
    reach = float(np.quantile(np.concatenate(logs), 0.99)) if any(map(len, logs)) else 0.0
    return next((octaves for octaves in OCTAVES if octaves >= reach), OCTAVES[-1])


def heat_overlay(image: np.ndarray, weights: np.ndarray, octaves: float = 2.0) -> bytes:
    """Attention over a grey photo: red where it is above uniform, blue below, and no colour where it is uniform.

    Args:
        image: (H, W, 3) uint8.
        weights: (h, w) float, not negative, with any sum; resized to the image.
        octaves: colours are fully saturated at 2 ** octaves and at 2 ** -octaves times uniform.
    """
    picture = _shrink(image)
    heat = Image.fromarray(np.clip(_octaves(weights) / octaves, -1, 1).astype(np.float32))
    t = np.asarray(heat.resize(picture.size, Image.Resampling.BILINEAR))[..., None]
    colour = np.where(t > 0, HIGH, LOW)
    return _encode(Image.fromarray(_blend(_grey(picture), colour, 0.88 * np.abs(t) ** 0.8)))


def region_map(image: np.ndarray, labels: np.ndarray, regions: np.ndarray) -> bytes:
    """Pseudo regions in colour over a grey photo, with the labelled pixels left grey and dimmed.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) integer, 255 where the training label is missing.
        regions: (H, W) integer, 255 where there is no region.
    """
    picture = _shrink(image)
    size = (picture.height, picture.width)
    labels, regions = _nearest(labels, size), _nearest(regions, size)
    table = distinct_colours(lightness=(0.66, 0.92), chroma=(0.07, 0.2))
    in_region = (regions != IGNORE)[..., None]
    labelled = (labels != IGNORE)[..., None]
    grey = _grey(picture)
    base = np.where(labelled, 0.45 * grey, grey)
    return _encode(Image.fromarray(_blend(base, table[regions], np.where(in_region, 0.9, 0.0))))


def _octaves(weights: np.ndarray) -> np.ndarray:
    """log2 of the weights over their mean; zero weights and an all-zero map stay finite."""
    weights = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(weights).all():
        raise NotFinite("an attention map holds NaN or infinity", "finite numbers only")
    mean = weights.mean()
    if mean <= 0:
        return np.zeros_like(weights)
    return np.log2(np.maximum(weights / mean, 2.0**-16))


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, MAX_EDGE / max(size))
    return max(1, math.floor(size[0] * factor)), max(1, math.floor(size[1] * factor))


def _shrink(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8))
    return picture.resize(_fit(picture.size), Image.Resampling.BOX)


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.asarray(labels, dtype=np.uint8))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))


def _grey(picture: Image.Image) -> np.ndarray:
    grey = np.asarray(picture, dtype=np.float32) @ np.array(GREY, dtype=np.float32)
    return np.repeat((28 + 0.8 * grey)[..., None], 3, axis=-1)


def _blend(base: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((1 - alpha) * base + alpha * colour), 0, 255).astype(np.uint8)


def _encode(picture: Image.Image) -> bytes:
    if max(picture.size) <= SMALL_EDGE:
        return png(picture)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=88)
    return stream.getvalue()
