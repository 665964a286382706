"""What the cache folder of this machine holds and nobody has used for a while. All of it can be made or loaded again.

Only what lies in a folder with our mark, under the names that we give, is ever found.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cliptea.storage.local_files import cache_folder
from cliptea.storage.marks import read_mark

__all__ = ["Cached", "drop", "unused"]

CACHE = "cache"  # in its mark
SHARD = re.compile(r"[0-9a-f]{64}")  # names of `cliptea.data.shard_cache`
# The folders of downloads are named by the version of an object, those of unfinished work by an output.
FOLDERS = {
    "s3": re.compile(r"[0-9a-f]{32,64}(-\d+)?"),
    "scratch": re.compile(r"demo-teacher-[0-9a-f]{16}"),
}


class Cached(NamedTuple):
    """A file or folder in the cache, its size on the disk in bytes, and when it was last used (seconds since 1970)."""

    path: Path
    size: int
    used: float


def unused(seconds: float) -> list[Cached]:
    """What nobody has used for that long."""
    root, before = cache_folder(), time.time() - seconds
    if read_mark(root).get("kind") != CACHE:
        return []
    return [item for item in map(_look, _ours(root)) if item.used < before]


def drop(item: Cached) -> bool:
    """Delete it, unless it is locked, was just used or belongs to another user. Returns whether it is gone."""
    with _locked(item.path) as free:
        if not free or _look(item.path).used > item.used:
            return False
        with suppress(OSError):
            _delete(item.path)
        return not os.path.lexists(item.path)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of `Store.scratch`, if there is one. Yields False if another process holds it."""
    try:
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        yield True
        return
    free = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # others than this one mean that the file system has no locks
        free = not isinstance(error, BlockingIOError)
    try:
        yield free
    finally:
        os.close(lock)


def _delete(path: Path) -> None:
    """Delete a file or folder. Links are not followed."""
    if not path.is_dir():
        path.unlink()
        return
    for here, folders, files in os.walk(path, topdown=False):
        for name in files:
            (Path(here) / name).unlink(missing_ok=True)
        for name in folders:
            with suppress(OSError):  # a link, or a folder in which somebody has just put a file
                (Path(here) / name).rmdir()
    path.rmdir()


def _ours(root: Path) -> Iterator[Path]:
    shards = root / "shards"
    with suppress(OSError):  # there is none, or this user may not look into it
        if not shards.is_symlink():
            yield from (path for path in shards.iterdir() if SHARD.fullmatch(path.name) and path.is_file())
    for name, pattern in FOLDERS.items():
        for here, folders, _ in os.walk(root / name) if not (root / name).is_symlink() else ():
            for folder in [folder for folder in folders if pattern.fullmatch(folder)]:
                folders.remove(folder)
                if not (Path(here) / folder).is_symlink():
                    yield Path(here) / folder


def _look(path: Path) -> Cached:
    """The size of a file or folder, and the last change of anything in it: `fetch` touches what it finds."""
    size, used = 0, 0.0
    within = [Path(here) / name for here, folders, files in os.walk(path) for name in (*folders, *files)]
    for one in [path, *within]:
        with suppress(OSError):  # it is gone, or this user may not look into its folder
            state = one.lstat()
            size, used = size + state.st_blocks * 512, max(used, state.st_mtime)
    return Cached(path, size, used)
