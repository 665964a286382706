"""Finds and reads photos, in files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cliptea.data.sample import LARGEST_FILE, SUFFIXES, decode_image
from cliptea.errors import DataError
from cliptea.files import oddity

__all__ = ["Source", "find_images", "read_image"]


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
    """(H, W, 3) uint8 RGB of a photo, as `decode_image` returns it.

    Raises:
        DataError: the file is not readable, truncated, or too large to be a photo.
    """
    if odd := oddity(path):  # opening a named pipe would wait for ever
        raise DataError(f"cannot read {path}: it is {odd}", "a file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path} has {path.stat().st_size} bytes", f"a photo of at most {LARGEST_FILE} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from None
    return decode_image(data, str(path))


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
