"""Reads photos in any pixel mode, with EXIF rotation, from files and folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from cliptea.data.sample import opened
from cliptea.errors import DataError

__all__ = ["Source", "find_images", "read_image"]

FORMATS = "JPEG, PNG, TIFF, WebP, BMP or GIF"
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Source(NamedTuple):
    """An image file, and the name of its outputs: a path without suffix that is unique among all sources."""

    path: Path
    name: str


def find_images(paths: Sequence[Path], leave_out: Path) -> list[Source]:
    """The given files, and all images in the given folders and their subfolders.

    Args:
        leave_out: a folder with results, which is not searched.

    Raises:
        DataError: a folder contains no images, or a path does not exist.
    """
    found: list[tuple[Path, Path]] = []  # file, and path for its name
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"the file or folder {path} does not exist")
            found.append((path, Path(path.name)))
            continue
        inside = [(file, file.relative_to(path)) for file in _below(path, leave_out.resolve())]
        if not inside:
            raise DataError(f"the folder {path} contains no images", f"files of type {', '.join(sorted(SUFFIXES))}")
        found += inside
    taken: dict[str, Path] = {}
    for file, relative in found:
        taken.setdefault(_free_name(taken, file, relative), file)
    return [Source(file, name) for name, file in taken.items()]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB, rotated according to EXIF. Only the first image of an animation is used.

    16-bit values are reduced to 8 bits, floats are scaled to 0-255, and transparent pixels are put on white.

    Raises:
        DataError: the file is not readable, truncated, or too large to be a photo.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from None
    with warnings.catch_warnings(), opened(data, str(path), "image", FORMATS) as image:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is still an error
        return np.array(_rgb(ImageOps.exif_transpose(image)))


def _below(folder: Path, leave_out: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = sorted(one for one in folders if (here / one).resolve() != leave_out)
        yield from (here / file for file in sorted(files) if Path(file).suffix.lower() in SUFFIXES)


def _free_name(taken: dict[str, Path], file: Path, relative: Path) -> str:
    """The path without its suffix. If another file has this name, the suffix and then a number are added."""
    candidates = [relative.with_suffix(""), relative.with_name(relative.name.replace(".", "_"))]
    numbered = (candidates[-1].with_name(f"{candidates[-1].name}-{number}") for number in range(2, len(taken) + 3))
    return next(str(name) for name in (*candidates, *numbered) if taken.get(str(name), file) == file)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_grey(np.array(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _grey(values: np.ndarray, mode: str) -> np.ndarray:
    """Convert a 16-bit or 32-bit grey image to (H, W) uint8."""
    if mode != "F":
        return (values.clip(0, 65535) >> 8).astype(np.uint8)
    low, high = np.nanmin(values), np.nanmax(values)
    return np.nan_to_num((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
