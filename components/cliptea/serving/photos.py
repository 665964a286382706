"""Finds and reads photos, in files and folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cliptea import progress
from cliptea.data.sample import LARGEST_FILE, SUFFIXES, decode_image
from cliptea.errors import DataError
from cliptea.files import oddity
from cliptea.messages import printable

__all__ = ["Source", "find_images", "read_image"]


SHOWN = 3  # names in a line


class Source(NamedTuple):
    """An image file, and the name of its outputs: a path without suffix that is unique among all sources."""

    path: Path
    name: str


def find_images(paths: Sequence[Path], leave_out: Path) -> list[Source]:
    """The given files, and all images in the given folders and their subfolders.

    What else is in the folders is reported in one line for each reason. Named pipes, devices and broken links with the
    suffix of an image are returned, so that `read_image` rejects them.

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
    if odd := oddity(path):  # opening a named pipe would wait forever
        raise DataError(f"cannot read {path}: it is {odd}", "a file")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path} has {path.stat().st_size} bytes", f"a photo of at most {LARGEST_FILE} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from None
    return decode_image(data, str(path))


def _below(folder: Path, leave_out: Path) -> Iterator[Path]:
    left: dict[str, list[str]] = defaultdict(list)
    for name, folders, files in os.walk(folder):
        here = Path(name)
        inside = sorted(one for one in folders if (here / one).is_symlink() or (here / one).resolve() != leave_out)
        folders[:] = []
        for one in inside:
            if one.startswith(".") or (here / one).is_symlink():
                left["hidden" if one.startswith(".") else "a link to a folder"].append(str(here / one))
            else:
                folders.append(one)
        for file in sorted(files):
            if file.startswith("."):
                left["hidden"].append(str(here / file))
            elif Path(file).suffix.lower() not in SUFFIXES:
                left["not an image by its suffix"].append(str(here / file))
            else:
                yield here / file
    for why, paths in left.items():
        more = f", and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        progress.note(f"{len(paths)} left out ({why}): {', '.join(map(printable, paths[:SHOWN]))}{more}")


def _free_name(taken: dict[str, Path], file: Path, relative: Path) -> str:
    """The path without its suffix. If another file has this name, the suffix and then a number are added."""
    candidates = [relative.with_suffix(""), relative.with_name(relative.name.replace(".", "_"))]
    numbered = (candidates[-1].with_name(f"{candidates[-1].name}-{number}") for number in range(2, len(taken) + 3))
    return next(str(name) for name in (*candidates, *numbered) if taken.get(str(name), file) == file)
