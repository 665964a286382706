"""The cache for parts of remote shards. All processes of a node share it, and its size is limited.

Complete files from settings, such as weights, are not in this cache but downloaded by `cliptea.storage.fetch`, because
their readers need a permanent path, and there are only a few of them. In contrast, processes read small parts of
shards, which may be larger than the disk, and each part may be deleted at any time.

The file for a shard in the cache is named after the sha256 of the shard. It is sparse: bytes are stored at the same
offsets as in the shard, and holes are zeros. Holes are not recorded. Instead, the reader compares the hash of the bytes
with the index. A hole, an incomplete write of another process, and a damaged block all count as a miss.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from cliptea import env, progress
from cliptea.errors import Unusable
from cliptea.files import PIPE
from cliptea.storage import Store, is_remote
from cliptea.storage.marks import claim_cache

__all__ = ["ShardCache", "open_cache"]

DEFAULT_GIB = 16.0  # default limit of the cache
STEP = 64 << 20  # maximum number of bytes that a process writes between two checks of the cache's size
TOUCH = 60.0  # seconds between two updates of the time when a file was last used
SHARD = re.compile(r"[0-9a-f]{64}")  # the only names of files that are read, written and deleted
STRANGE = {errno.ELOOP: "a link", errno.ENXIO: PIPE, errno.ESPIPE: PIPE}  # what is in place of a file, by the error
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
        folder = claim_cache() / "shards"
        if folder.is_symlink() and not _is_own(folder):  # it may lead to files of somebody else with such names
            raise Unusable(
                f"{folder} is a link of somebody else, or to a folder of somebody else",
                "a folder, or your own link to a folder of yours",
                f"delete it; {env.CACHE.name} can be on another disk",
            )
        return ShardCache(folder, int(gib * (1 << 30)))
    except Unusable as error:
        _warn_once(f"parts of shards are not cached on this machine, but read from S3 each time: {error}")
        return None


def _is_own(link: Path) -> bool:
    """Whether this user has made both the link and the folder that it leads to."""
    try:
        return link.is_dir() and os.lstat(link).st_uid == os.stat(link).st_uid == os.getuid()
    except OSError:
        return False


def _open(path: Path | str, flags: int) -> int:
    """Open a file. Opening a named pipe does not wait for its other end, and then reading and writing fail."""
    return os.open(path, flags | os.O_NONBLOCK, 0o644)


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
            with open(self._folder / shard, "rb", buffering=0, opener=_open) as file:
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
            handle = _open(self._folder / shard, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW)
            with os.fdopen(handle, "wb", buffering=0):
                self._written += os.pwrite(handle, data, start)
        except OSError as error:
            self._written = self._step  # the disk is full, so the next write evicts first
            if error.errno in STRANGE:
                _warn_once(
                    f"parts of shards are not cached: {error.filename or self._folder / shard} is "
                    f"{STRANGE[error.errno]}, which cliptea has not made; delete it"
                )

    def _evict(self) -> None:
        """Delete the least recently used files, unless another process is already doing this."""
        handle = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "r+b") as lock:
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
