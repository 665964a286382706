"""Output images for a mask: a PNG with a palette, an overlay with a legend, and a PNG of the confidence."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from cliptea.data.colours import coloured, legend, palette

__all__ = ["confidence_png", "mask_png", "overlay_jpeg"]

LARGEST = 2048  # pixels along the longer edge of an overlay
SMALLEST = 256  # smaller images are enlarged by a whole number
OPACITY = 0.55
QUALITY = 88


def mask_png(mask_HW: np.ndarray) -> bytes:
    """A palette PNG of (H, W) uint8 class ids. Pixel values are the ids, and colours are those of the report."""
    return _encode(coloured(mask_HW), "PNG")


def confidence_png(confidence_HW: np.ndarray) -> bytes:
    """A grey PNG of (H, W) values 0-1, which become 0-255."""
    return _encode(Image.fromarray(np.rint(confidence_HW * 255).astype(np.uint8)), "PNG")


def overlay_jpeg(image_HW3: np.ndarray, mask_HW: np.ndarray, names: Mapping[int, str], shown: Sequence[int]) -> bytes:
    """The image with the colours of its mask on top, next to a legend of the classes.

    Args:
        image_HW3: uint8 RGB.
        mask_HW: uint8 ids.
        names: of the ids.
        shown: ids in the legend, in order.
    """
    photo = Image.fromarray(image_HW3)
    colours = Image.fromarray(palette()[mask_HW])
    factor = min(LARGEST / max(photo.size), max(1, SMALLEST // max(photo.size)))
    size = (max(1, round(photo.width * factor)), max(1, round(photo.height * factor)))
    photo = photo.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST)
    blended = Image.blend(photo, colours.resize(size, Image.Resampling.NEAREST), OPACITY)
    key = legend([(names[index], index) for index in shown], size[1])
    page = Image.new("RGB", (size[0] + key.width, max(size[1], key.height)), "white")
    page.paste(blended, (0, 0))
    page.paste(key, (size[0], 0))
    return _encode(page, "JPEG")


def _encode(picture: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, quality=QUALITY)
    return stream.getvalue()
