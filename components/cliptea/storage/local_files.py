"""Local files: atomic writes, and the folders for downloads and unfinished work."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cliptea import env
from cliptea.errors import StorageError
from cliptea.messages import meaning

__all__ = ["PARTIAL", "cache_folder", "make_folder", "new_file", "place", "unusable", "write_file"]

PARTIAL = ".partial-"  # prefix of the names of incomplete files


@contextmanager
def new_file(target: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which replaces `target` at the end of the block. After an error, it is deleted.

    A killed process leaves a file whose name begins with `PARTIAL`.

    Args:
        durable: write the bytes to the disk before the name changes, so that a power cut leaves no empty file.

    Raises:
        StorageError: the file cannot be written.
    """
    make_folder(target.parent)
    try:
        name = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")  # with the user's umask, for shared volumes
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
    """Create the folder `path` if it does not exist."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    return path


def cache_folder() -> Path:
    """The folder for downloads and scratch folders: CLIPTEA_CACHE, or cliptea in the user's cache folder."""
    named = env.CACHE.get()
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cliptea"
    except RuntimeError:
        raise StorageError("this user has no home folder", todo="set CLIPTEA_CACHE to a folder to cache in") from None


def place(*names: str) -> Path:
    """A relative path from the segments of `names`. It stays inside its folder, as ".", ".." and "" are escaped."""
    return Path(*(part if part.strip(".") else f"%{part}" for name in names for part in name.split("/")))


def unusable(path: Path, error: OSError) -> StorageError:
    """The error for a file or folder that cannot be read or written, with its cause and what to do."""
    what, todo = meaning(error) or (error.strerror or str(error), "")
    return StorageError(f"cannot use {path}: {what}", "a folder that can be written, with space left", todo)
