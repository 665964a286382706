"""One labelled image, as every data set reader gives it."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from cliptea.errors import DataError

__all__ = ["Sample", "decode_image", "decode_labels", "encode_labels"]


class Sample(NamedTuple):
    """An encoded image and its labels: (H, W) uint8 train ids, 255 where there is none."""

    image: bytes
    extension: str  # jpg, png, ...
    labels: np.ndarray


def decode_image(data: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an encoded image.

    Raises:
        DataError: the bytes are no image, or are cut off.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"cannot decode the image {name} ({error})", "a whole JPEG or PNG file", "replace or remove it"
        ) from None


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 of an 8-bit single-channel label PNG; a palette's indices are taken as they are.

    Raises:
        DataError: not readable, or of another kind.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in ("L", "P"):
                raise DataError(
                    f"the label map {name} has pixel mode {image.mode}",
                    "one 8-bit channel (L, or a palette P)",
                )
            return np.array(image)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(
            f"cannot decode the label map {name} ({error})", "a whole PNG file", "replace or remove it"
        ) from None


def encode_labels(labels: np.ndarray) -> bytes:
    """PNG bytes of (H, W) uint8 labels."""
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return buffer.getvalue()
