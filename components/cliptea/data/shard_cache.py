"""The node's cache of pieces of remote shards, with a limit, for all processes of the node at once.

Whole files that settings name, such as weights, are not kept here but downloaded by `cliptea.storage.fetch`: their
readers want a path that stays, and no more of them come than settings name. Of shards a process reads small pieces,
they may be larger than the disk, and each piece may be gone at any time.

A shard's file in the cache is named by the sha256 of the shard and sparse: bytes that were read lie at the shard's own
offsets, and holes are zeros. Nothing records which is which: the reader compares the hash of what it gets with the
index, and a hole, a write that another process has not ended and a damaged block are all a miss.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from cliptea import env
from cliptea.storage import Store, is_remote
from cliptea.storage.local_files import cache_folder

__all__ = ["ShardCache", "open_cache"]

DEFAULT_GIB = 16.0  # most of the cache
STEP = 64 << 20  # bytes that a process writes between two looks at the cache's size, at most
TOUCH = 60.0  # seconds between two notes that a file is in use
SPARE = 0.9  # part of the limit that eviction leaves


def open_cache(store: Store) -> ShardCache | None:
    """The cache of this node, or None for a store of its own disk or when the cache is turned off.

    Raises:
        ConfigError: CLIPTEA_CACHE_GIB is no number of GiB.
    """
    if not is_remote(store.uri("")):
        return None
    gib = env.CACHE_GIB.number()
    if gib is None:
        gib = DEFAULT_GIB
    return ShardCache(cache_folder() / "shards", int(gib * (1 << 30))) if gib else None


class ShardCache:
    """Pieces of shards in files of one folder. It never raises: a disk that is full or gone means a miss."""

    def __init__(self, folder: Path, limit: int) -> None:
        """
        Args:
            folder: made when the first piece is written.
            limit: bytes of disk to use, exceeded by at most `STEP` or a sixteenth of it for each writing process.
        """
        self._folder, self._limit = folder, limit
        self._step = min(STEP, limit // 16)
        self._written = self._step  # so that the first write looks at what earlier runs have left

    def read(self, shard: str, start: int, length: int) -> bytes | None:
        """Bytes of the shard of that sha256 from `start`, right or not; None when the file does not reach so far."""
        try:
            with (self._folder / shard).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
                if time.time() - os.fstat(file.fileno()).st_mtime > TOUCH:
                    with suppress(OSError):
                        os.utime(file.fileno())
        except OSError:
            return None
        return data if len(data) == length else None

    def write(self, shard: str, start: int, data: bytes) -> None:
        """Keep a piece of a shard, and evict the shards longest unused when that has become too much."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._written >= self._step:
                self._written = 0
                self._evict()
            handle = os.open(self._folder / shard, os.O_WRONLY | os.O_CREAT, 0o644)
            with os.fdopen(handle, "wb", buffering=0):
                self._written += os.pwrite(handle, data, start)
        except OSError:
            self._written = self._step  # a full disk: the next write evicts first

    def _evict(self) -> None:
        """Delete whole files, the longest unused first, unless another process is about it."""
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            found = []
            with os.scandir(self._folder) as items:
                for item in items:
                    with suppress(FileNotFoundError):
                        state = item.stat()
                        found.append((state.st_mtime, state.st_blocks * 512, item.path))
            used = sum(size for _, size, _ in found)
            if used <= self._limit:
                return
            for _, size, path in sorted(found):
                if used <= SPARE * self._limit:
                    return
                if not path.endswith(".lock"):
                    Path(path).unlink(missing_ok=True)
                    used -= size
