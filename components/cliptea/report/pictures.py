"""Pictures as bytes: photos, label maps, GLM attention (paper Fig. 5) and region maps (Fig. 6).

Small pictures keep their pixels, so that a page can enlarge them crisply; large ones shrink to `MAX_EDGE`.
"""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "HIGH", "IGNORE", "LOW", "NEUTRAL", "SMALL_EDGE", "class_colour", "data_uri", "heat_overlay",
    "heat_range", "hex_colour", "label_map", "legend", "palette", "photo", "region_map",
]  # fmt: skip

IGNORE = 255
NEUTRAL = (140, 140, 140)  # pixels without a label or region
LOW, HIGH = (38, 112, 204), (226, 78, 22)  # attention below and above uniform
MAX_EDGE = 384  # pixels; the report shows nothing larger
SMALL_EDGE = 128  # up to here photos are PNG, above JPEG
GREY = (0.299, 0.587, 0.114)
FIRST = (60, 120, 200)  # class 0
OCTAVES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)

_TO_LMS = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.6300))
_TO_LAB = ((0.2105, 0.7936, -0.0041), (1.9780, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087))


def palette() -> np.ndarray:
    """Colours of the class indices 0-254, (255, 3) uint8: fixed, the first ones farthest from each other."""
    return _distinct(lightness=(0.42, 0.88), chroma=(0.05, 0.16))


def class_colour(index: int) -> str:
    """A class's colour as #rrggbb."""
    return hex_colour(NEUTRAL if index == IGNORE else palette()[index])


def hex_colour(rgb: Iterable[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


def legend(entries: Sequence[tuple[str, int]], height: int) -> Image.Image:
    """Names beside their colours, a line each.

    Args:
        entries: name and class index.
        height: pixels of the picture that it stands beside, which decide the size of the letters.
    """
    size = min(28, max(11, height // 40))
    font, line = ImageFont.load_default(size), round(size * 1.6)
    widest = max((font.getlength(name) for name, _ in entries), default=0)
    page = Image.new("RGB", (round(widest) + 3 * line, line * (len(entries) + 1)), "white")
    draw = ImageDraw.Draw(page)
    for row, (name, index) in enumerate(entries):
        top = line // 2 + row * line
        draw.rectangle((line // 2, top, line // 2 + size, top + size), fill=class_colour(index))
        draw.text((line // 2 + line, top + size // 2), name, fill="black", font=font, anchor="lm")
    return page


def data_uri(picture: bytes) -> str:
    """A PNG or JPEG as a data URI."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


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
    picture = Image.fromarray(np.asarray(labels, dtype=np.uint8))
    picture = picture.resize(_fit(picture.size), Image.Resampling.NEAREST)
    picture.putpalette(np.vstack([palette(), [NEUTRAL]]).astype(np.uint8).tobytes())
    return _png(picture)


def heat_range(maps: Iterable[np.ndarray]) -> float:
    """Octaves around uniform attention that hold 99 % of the weights: one scale for several pictures."""
    logs = [np.abs(_octaves(weights)).ravel() for weights in maps]
    reach = float(np.quantile(np.concatenate(logs), 0.99)) if logs else 0.0
    return next((octaves for octaves in OCTAVES if octaves >= reach), OCTAVES[-1])


def heat_overlay(image: np.ndarray, weights: np.ndarray, octaves: float = 2.0) -> bytes:
    """Attention over a grey photo: red above uniform, blue below, no colour at uniform.

    Args:
        image: (H, W, 3) uint8.
        weights: (h, w) float, not negative, of any sum; resized to the image.
        octaves: full colour at 2 ** octaves times uniform and at 2 ** -octaves.
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
    table = np.vstack([_distinct(lightness=(0.66, 0.92), chroma=(0.07, 0.2)), [NEUTRAL]])
    in_region = (regions != IGNORE)[..., None]
    labelled = (labels != IGNORE)[..., None]
    grey = _grey(picture)
    base = np.where(labelled, 0.45 * grey, grey)
    return _encode(Image.fromarray(_blend(base, table[regions], np.where(in_region, 0.78, 0.0))))


@functools.cache
def _distinct(lightness: tuple[float, float], chroma: tuple[float, float]) -> np.ndarray:
    """255 colours, each as far in OKLab as can be from those before it and from grey; (255, 3) uint8."""
    axis = np.arange(0, 256, 15)
    rgb = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    saturation = np.hypot(lab[:, 1], lab[:, 2])
    keep = (lab[:, 0] > lightness[0]) & (lab[:, 0] < lightness[1])
    keep &= (saturation > chroma[0]) & (saturation < chroma[1])
    rgb, lab = rgb[keep], lab[keep]
    distance = np.linalg.norm(lab - _oklab(np.array([NEUTRAL])), axis=1)
    chosen = [int(np.argmin(np.linalg.norm(rgb - np.array(FIRST), axis=1)))]
    while len(chosen) < IGNORE:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return rgb[chosen].astype(np.uint8)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab of sRGB colours 0-255, (..., 3): equal distances look equally different."""
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.array(_TO_LMS).T) @ np.array(_TO_LAB).T


def _octaves(weights: np.ndarray) -> np.ndarray:
    """log2 of the weights over their mean; zero weights and an all-zero map stay finite."""
    weights = np.asarray(weights, dtype=np.float64)
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
    grey = np.asarray(picture, dtype=np.float64) @ np.array(GREY)
    return np.repeat((28 + 0.8 * grey)[..., None], 3, axis=-1)


def _blend(base: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((1 - alpha) * base + alpha * colour), 0, 255).astype(np.uint8)


def _encode(picture: Image.Image) -> bytes:
    if max(picture.size) <= SMALL_EDGE:
        return _png(picture)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=88)
    return stream.getvalue()


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
