"""One labelled image, as all data set readers return it, and the only place that decodes images.

Training, evaluation, figures, `cliptea predict` and models in MLflow decode images with `decode_image`, so that a
network sees the same pixels of a file everywhere.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError

from cliptea.errors import DataError, one_line

__all__ = [
    "LARGEST_FILE", "SUFFIXES", "Sample", "decode_image", "decode_labels", "encode_png", "has_pages", "is_turned",
    "opened", "require_labels", "size_of_image",
]  # fmt: skip

# Pillow knows more formats, but some of them start other programs, and most are no photos.
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
PHOTO = "JPEG, PNG, TIFF, WebP, BMP or GIF"
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")  # in any case
LARGEST_FILE = 1 << 30  # bytes
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, (0, 1), (5, 6, 7, 8)  # EXIF
TURNED = "cliptea turned it"  # in the info of an opened image
DEEPEST_GREY = 65535
SUBFILE, NO_PAGE = 254, 0b101  # a tag of TIFF: what an image is, and its bits for smaller copies and masks

# Pillow warns of odd metadata, and of images half as large as those that it refuses.
warnings.filterwarnings("ignore", module=r"PIL\..*")


class Sample(NamedTuple):
    """An encoded image and its labels: (H, W) uint8 train ids, or 255 for pixels without a class."""

    image: bytes
    extension: str  # jpg, png, ...
    labels: np.ndarray
    turned: bool = False  # whether the image is turned as its EXIF orientation says
    size: tuple[int, int] | None = None  # height and width of the upright image, if a reader has decoded it


@contextmanager
def opened(data: bytes, name: str, what: str, expected: str) -> Iterator[Image.Image]:
    """Open an encoded image, turned upright according to EXIF. Errors inside the block become a DataError.

    Args:
        name: file name for error messages.
        what: what the file is, such as "label map".
        expected: the expected format, such as "PNG".
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.info[TURNED] = image.getexif().get(ORIENTATION, 1) not in UPRIGHT
            if image.info[TURNED]:
                ImageOps.exif_transpose(image, in_place=True)
            yield image
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise almost any error
        reason = "no image format is recognised" if isinstance(error, UnidentifiedImageError) else one_line(error)
        raise DataError(
            f"cannot decode the {what} {name} ({reason[:200] or type(error).__name__})",
            f"a complete {expected} file",
            "replace or remove it",
        ) from None


def decode_image(data: bytes, name: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an encoded image, turned upright according to EXIF.

    16-bit values are reduced to 8 bits, floats are scaled so that the smallest is 0 and the largest 255, and
    transparent pixels are put on white. Only the first image of an animation is used.

    Raises:
        DataError: the bytes are not a complete image, or too large to be a photo, or have values that are no colours.
    """
    with opened(data, name, "image", PHOTO) as image:
        return np.array(_rgb(image))


def size_of_image(data: bytes, name: str) -> tuple[tuple[int, int], bool]:
    """Height and width of the array that `decode_image` makes, and whether it turns the image. All pixels are decoded.

    Raises:
        DataError: as for `decode_image`.
    """
    with opened(data, name, "image", PHOTO) as image:
        image.load()
        if _is_deep(image):
            _rgb(image)
        return (image.height, image.width), image.info[TURNED]


def is_turned(data: bytes) -> bool:
    """Whether `decode_image` turns or flips an image because of its EXIF orientation."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.getexif().get(ORIENTATION, 1) not in UPRIGHT


def has_pages(data: bytes, opened: Image.Image) -> bool:
    """Whether a TIFF or GIF holds several images. Smaller copies and masks, which some TIFFs have, do not count.

    Args:
        data: the file of the opened image, which is left as it is.
    """
    if opened.format not in ("TIFF", "GIF"):
        return False
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        frames = (getattr(frame, "tag_v2", {}).get(SUBFILE, 0) for frame in ImageSequence.Iterator(image))
        pages = (kind for kind in frames if not kind & NO_PAGE)
        return len([*itertools.islice(pages, 2)]) == 2


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """(H, W) uint8 labels of a PNG in a shard, as created by `encode_png`.

    Raises:
        DataError: the PNG is not readable.
    """
    with opened(data, name, "label map", "PNG") as image:
        return np.array(image)


def require_labels(sample: Sample, name: str) -> None:
    """Check the form of a sample's labels, which a data set of the user's own may get wrong.

    Raises:
        DataError: they are not (H, W) uint8 in the size of the upright image, or the image is none.
    """
    height, width = sample.size or _size_in_header(sample.image, name)
    labels = sample.labels
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint8 or labels.shape != (height, width):
        shown = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise DataError(
            f"the data set gives labels of the form {shown} for the image {name}",
            f"a numpy array uint8 ({height}, {width}), the height and width of the image",
        )


def _size_in_header(data: bytes, name: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
            # Pillow states the size of a TIFF as it is after turning, and that of other formats as it is before.
            return image.size if turned and image.format != "TIFF" else (image.height, image.width)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise almost any error
        raise DataError(
            f"the data set gives no image for {name} ({one_line(error)[:100]})", "an encoded image"
        ) from error


def encode_png(pixels: np.ndarray) -> bytes:
    """PNG bytes of (H, W) uint8 labels or an (H, W, 3) uint8 RGB image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a channel."""
    return image.mode.startswith("I") or image.mode == "F"


def _rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        return Image.fromarray(_grey(np.array(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray, mode: str) -> np.ndarray:
    """Convert a 16-bit, 32-bit or float grey image to (H, W) uint8."""
    low, high = values.min(), values.max()
    if mode != "F":
        if low < 0 or high > DEEPEST_GREY:
            raise ValueError(f"its values are {low} to {high}, not 0 to {DEEPEST_GREY}")
        return (values >> 8).astype(np.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds NaN or infinity")
    values = values.astype(np.float64)
    return ((values - low) / max(float(high) - float(low), 1e-12) * 255).astype(np.uint8)
