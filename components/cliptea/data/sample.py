"""One labelled image, as all data set readers return it."""

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
    """An encoded image and its labels: (H, W) uint8 train ids, or 255 for pixels without a class."""

    image: bytes
    extension: str  # jpg, png, ...
    labels: np.ndarray


@contextmanager
def opened(data: bytes, name: str, what: str, expected: str) -> Iterator[Image.Image]:
    """Open an encoded image. Pillow's errors inside the block become a DataError.

    Args:
        name: file name for error messages.
        what: what the file is, such as "label map".
        expected: the expected format, such as "PNG".
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
        DataError: the bytes are not an image, or they are truncated.
    """
    with opened(data, name, "image", "JPEG or PNG") as image:
        return np.array(image.convert("RGB"))


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 labels of a PNG in a shard, as created by `encode_png`.

    Raises:
        DataError: the PNG is not readable.
    """
    with opened(data, name, "label map", "PNG") as image:
        return np.array(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of (H, W) uint8 labels or an (H, W, 3) uint8 RGB image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
