"""The colours of classes. They are the same in reports, masks, overlays and MLflow."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cliptea.data.catalogue import IGNORE
from cliptea.messages import printable

__all__ = ["NEUTRAL", "class_colour", "coloured", "distinct_colours", "hex_colour", "legend", "palette"]

NEUTRAL = (140, 140, 140)  # pixels without a class
FIRST = (60, 120, 200)  # class 0

_TO_LMS = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.6300))
_TO_LAB = ((0.2105, 0.7936, -0.0041), (1.9780, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087))


def palette() -> np.ndarray:
    """Colours of the class indices, (256, 3) uint8. The first ones differ most. The colour of 255 is neutral."""
    return distinct_colours(lightness=(0.42, 0.88), chroma=(0.05, 0.16))


def class_colour(index: int) -> str:
    """The colour of a class as #rrggbb."""
    return hex_colour(palette()[index])


def hex_colour(rgb: Iterable[int]) -> str:
    return "#" + "".join(f"{int(value):02x}" for value in rgb)


def coloured(labels_HW: np.ndarray) -> Image.Image:
    """A palette image whose pixel values are uint8 class indices."""
    picture = Image.fromarray(labels_HW)
    picture.putpalette(palette().tobytes())
    return picture


def legend(entries: Sequence[tuple[str, int]], height: int) -> Image.Image:
    """A legend with one line per class.

    Args:
        entries: name and class index.
        height: height in pixels of the picture next to it, which determines the font size.
    """
    size = min(28, max(11, height // 40))
    font, line = ImageFont.load_default(size), round(size * 1.6)
    entries = [(printable(name), index) for name, index in entries]
    widest = max((font.getlength(name) for name, _ in entries), default=0)
    page = Image.new("RGB", (round(widest) + 3 * line, line * (len(entries) + 1)), "white")
    draw = ImageDraw.Draw(page)
    for row, (name, index) in enumerate(entries):
        top = line // 2 + row * line
        draw.rectangle((line // 2, top, line // 2 + size, top + size), fill=class_colour(index))
        draw.text((line // 2 + line, top + size // 2), name, fill="black", font=font, anchor="lm")
    return page


@functools.cache
def distinct_colours(lightness: tuple[float, float], chroma: tuple[float, float]) -> np.ndarray:
    """255 colours and grey, (256, 3) uint8. In OKLab, each is as far as possible from grey and all earlier ones."""
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
    return np.vstack([rgb[chosen], [NEUTRAL]]).astype(np.uint8)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """OKLab values of sRGB colours 0-255, (..., 3), in which equal distances look equally different.

    Source: Björn Ottosson, "A perceptual color space for image processing" (2020).
    """
    linear = np.where(rgb <= 10, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ np.array(_TO_LMS).T) @ np.array(_TO_LAB).T
