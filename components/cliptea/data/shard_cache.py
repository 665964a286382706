"""The cache for parts of remote shards. All processes of a node share it, and its size is limited.

Complete files from settings, such as weights, are not in this cache but downloaded by `cliptea.storage.fetch`, because
their readers need a permanent path, and there are only a few of them. In contrast, processes read small parts of
shards, which may be larger than the disk, and each part may be deleted at any time.

The file for a shard in the cache is named after the sha256 of the shard. It is sparse: bytes are stored at the same
offsets as in the shard, and holes are zeros. Holes are not recorded. Instead, the reader compares the hash of the bytes
with the index. A hole, an incomplete write of another process, and a damaged block all count as a miss.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from cliptea import env, progress
from cliptea.errors import Unusable
from cliptea.storage import Store, is_remote
from cliptea.storage.marks import claim_cache

__all__ = ["ShardCache", "open_cache"]

DEFAULT_GIB = 16.0  # default limit of the cache
STEP = 64 << 20  # maximum number of bytes that a process writes between two checks of the cache's size
TOUCH = 60.0  # seconds between two updates of the time when a file was last used
SHARD = re.compile(r"[0-9a-f]{64}")  # the only names of files that are read, written and deleted
SPARE = 0.9  # eviction reduces the cache to this fraction of the limit


def open_cache(store: Store) -> ShardCache | None:
    """The cache of this node. None if the store is on a local disk, or the cache is disabled or cannot be used.

    Raises:
        ConfigError: CLIPTEA_CACHE_GIB is not a number of GiB.
        StorageError: the cache folder belongs to somebody else.
    """
    if not is_remote(store.uri("")):
        return None
    gib = env.CACHE_GIB.number()
    if gib is None:
        gib = DEFAULT_GIB
    if not gib:
        return None
    try:
        return ShardCache(claim_cache() / "shards", int(gib * (1 << 30)))
    except Unusable as error:
        _warn_once(f"parts of shards are not cached on this machine, but read from S3 each time: {error}")
        return None


@cache
def _warn_once(text: str) -> None:
    progress.warn(text)


class ShardCache:
    """Parts of shards in files of one folder. It never raises an error; a full or missing disk is a miss."""

    def __init__(self, folder: Path, limit: int) -> None:
        """
        Args:
            folder: folder in the marked cache folder. The first write creates it.
            limit: maximum size in bytes. Each writing process may exceed it by `STEP` or a sixteenth of the limit.
        """
        self._folder, self._limit = folder, limit
        self._step = min(STEP, limit // 16)
        self._written = self._step  # so that the first write checks the size of the cache

    def read(self, shard: str, start: int, length: int) -> bytes | None:
        """Bytes from `start` of the shard with this sha256, which may be wrong. None if the file is too short."""
        if not SHARD.fullmatch(shard):
            return None
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
        """Store a part of a shard. If the cache is too large, the least recently used shards are deleted."""
        if not SHARD.fullmatch(shard):  # it may come from a bucket, and would lead out of the cache
            return
        try:
            self._folder.mkdir(exist_ok=True)  # without its parent, which would have no mark
            if self._written >= self._step:
                self._written = 0
                self._evict()
            handle = os.open(self._folder / shard, os.O_WRONLY | os.O_CREAT, 0o644)
            with os.fdopen(handle, "wb", buffering=0):
                self._written += os.pwrite(handle, data, start)
        except OSError:
            self._written = self._step  # the disk is full, so the next write evicts first

    def _evict(self) -> None:
        """Delete the least recently used files, unless another process is already doing this."""
        with (self._folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            found = []
            with os.scandir(self._folder) as items:
                for item in items:
                    if not SHARD.fullmatch(item.name):
                        continue
                    with suppress(FileNotFoundError):
                        state = item.stat()
                        found.append((state.st_mtime, state.st_blocks * 512, item.path))
            used = sum(size for _, size, _ in found)
            if used <= self._limit:
                return
            for _, size, path in sorted(found):
                if used <= SPARE * self._limit:
                    return
                Path(path).unlink(missing_ok=True)
                used -= size
