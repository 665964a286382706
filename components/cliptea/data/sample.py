"""One labelled image, as every data set reader gives it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cliptea.errors import DataError

__all__ = ["Sample", "decode_image", "decode_labels", "encode_png", "opened"]


class Sample(NamedTuple):
    """An encoded image and its labels: (H, W) uint8 train ids, 255 where there is none."""

    image: bytes
    extension: str  # jpg, png, ...
    labels: np.ndarray


@contextmanager
def opened(data: bytes, name: str, what: str, expected: str) -> Iterator[Image.Image]:
    """The image that the bytes encode; what Pillow finds wrong with it inside the block becomes a DataError.

    Args:
        data: the encoded image.
        name: file, for the error's text.
        what: what the file is, such as "label map".
        expected: its format, such as "PNG".
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image format is recognised" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"cannot decode the {what} {name} ({reason})", f"a complete {expected} file", "replace or remove it"
        ) from None


def decode_image(data: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an encoded image.

    Raises:
        DataError: the bytes are no image, or are cut off.
    """
    with opened(data, name, "image", "JPEG or PNG") as image:
        return np.array(image.convert("RGB"))


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 of a label PNG of a shard, as `encode_png` makes them.

    Raises:
        DataError: not readable.
    """
    with opened(data, name, "label map", "PNG") as image:
        return np.array(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of (H, W) uint8 labels or an (H, W, 3) uint8 RGB image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
