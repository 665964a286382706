"""Files of this machine: written whole or not at all, and where downloads and unfinished work lie."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cliptea import env
from cliptea.errors import StorageError

__all__ = ["PARTIAL", "cache_folder", "make_folder", "new_file", "place", "unusable", "write_file"]

PARTIAL = ".partial-"  # first characters of the names of files that are not whole


@contextmanager
def new_file(target: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target` when the block ends well, and else leaves no trace.

    A killed process leaves a file whose name begins with `PARTIAL`.

    Args:
        target: the file.
        durable: bring the bytes to the disk before the name, so that a power cut leaves no empty file. It takes time.

    Raises:
        StorageError: it cannot be written.
    """
    make_folder(target.parent)
    try:
        name = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")  # made with the user's own mode, for shared volumes
        try:
            with name.open("xb") as file:
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unusable(target, error) from None


def write_file(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file at once; arguments and errors as of `new_file`."""
    with new_file(target, durable=durable) as file:
        file.write(data)


def make_folder(path: Path) -> Path:
    """The folder `path`, made when it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    return path


def cache_folder() -> Path:
    """Where downloaded objects and scratch folders lie: CLIPTEA_CACHE, or cliptea in the user's cache folder."""
    named = env.CACHE.get()
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cliptea"
    except RuntimeError:
        raise StorageError("this user has no home folder", todo="set CLIPTEA_CACHE to a folder to cache in") from None


def place(*names: str) -> Path:
    """A relative path of the segments of `names` that never climbs: ".", ".." and "" are escaped."""
    return Path(*(part if part.strip(".") else f"%{part}" for name in names for part in name.split("/")))


def unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot use {path}: {error.strerror or error}", "a folder that can be written, with space left"
    )
