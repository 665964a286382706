"""Writes shards, and finds complete shards of earlier runs. The format is described in SHARDS.md."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

from cliptea.data.shard_index import Place, ShardIndex, dump_index, parse_index
from cliptea.data.shard_sets import ShardEntry
from cliptea.errors import ServerAway, StorageError
from cliptea.manifest import StoredObject, put_immutable, put_object
from cliptea.storage import Store

__all__ = ["FoundShard", "ShardWriter", "found_shards", "joined"]

TAR, INDEX = ".tar", ".index.json"


class ShardWriter:
    """Collects records, and stores a shard in the background whenever `limit` bytes are reached.

    Memory: the current shard, and the shard that is being stored with a copy: three times `limit` and one record.
    """

    def __init__(self, store: Store, prefix: str, limit: int, found: Sequence[ShardEntry] = ()) -> None:
        """
        Args:
            limit: a shard is closed when it has at least this many bytes.
            found: the first shards, which already exist.
        """
        self._store, self._prefix, self._limit = store, prefix, limit
        self._entries = list(found)
        self._uploads = ThreadPoolExecutor(1)
        self._pending: Future[ShardEntry] | None = None
        self._begin()

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._names: list[str] = []
        self._records: list[dict[str, Place]] = []

    def add(self, name: str, members: Mapping[str, bytes]) -> None:
        """Append a record. The written bytes only depend on names and content."""
        places = {}
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{name}.{extension}")
            info.size = len(data)
            self._buffer.write(info.tobuf(tarfile.PAX_FORMAT))
            places[extension] = Place(self._buffer.tell(), len(data), hashlib.sha256(data).digest())
            self._buffer.write(data)
            self._pad(tarfile.BLOCKSIZE)
        self._names.append(name)
        self._records.append(places)
        if self._buffer.tell() >= self._limit:
            self._end()

    def _pad(self, block: int) -> None:
        self._buffer.write(bytes(-self._buffer.tell() % block))

    def _end(self) -> None:
        self._buffer.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar file
        self._pad(tarfile.RECORDSIZE)
        self._await()
        stem = f"{self._prefix}/{len(self._entries):05d}"
        self._pending = self._uploads.submit(
            _put, self._store, stem, self._buffer.getvalue(), self._names, self._records
        )
        self._begin()

    def _await(self) -> None:
        if self._pending is not None:
            self._entries.append(self._pending.result())
            self._pending = None

    def close(self) -> list[ShardEntry]:
        """Store the remaining records, and return all shards in order.

        Raises:
            StorageError: a shard could not be stored.
        """
        if self._names:
            self._end()
        self._await()
        self._uploads.shutdown()
        return self._entries


def _put(store: Store, stem: str, tar: bytes, names: list[str], records: list[dict[str, Place]]) -> ShardEntry:
    stored = put_immutable(store, stem, TAR, tar)
    # The index comes last, because it marks the shard as complete.
    index = put_object(store, stored.key.removesuffix(TAR) + INDEX, dump_index(stored, names, records))
    return ShardEntry(tar=stored, index=index, records=len(names))


class FoundShard(NamedTuple):
    """A complete shard."""

    entry: ShardEntry
    index: ShardIndex
    tar: bytes

    def members(self, number: int) -> dict[str, bytes]:
        """All members of a record."""
        return {extension: self.content(number, extension) for extension in self.index.places(number)}

    def content(self, number: int, extension: str) -> bytes:
        """A member of a record."""
        place = self.index.places(number)[extension]
        return self.tar[place.offset : place.offset + place.length]


def found_shards(store: Store, prefix: str) -> Iterator[FoundShard]:
    """The complete shards of a folder in order, up to the first one that is missing or does not match its index."""
    indexes = [entry.key for entry in store.entries(prefix) if entry.key.endswith(INDEX)]
    for number in count():
        mine = (key for key in indexes if key.startswith(f"{prefix}/{number:05d}-"))
        found = next(filter(None, (_still_there(store, key) for key in mine)), None)
        if found is None:
            return
        yield found


def _still_there(store: Store, key: str) -> FoundShard | None:
    try:
        return _find(store, key)
    except ServerAway:
        raise
    except StorageError:
        if store.size(key) is not None:
            raise
        return None  # another writer has joined it with other shards and deleted it


def joined(store: Store, prefix: str, shards: Sequence[ShardEntry], limit: int) -> list[ShardEntry]:
    """Join shards that are smaller than `limit` to shards of at least `limit` bytes in the folder `prefix`.

    Memory: the same as for a `ShardWriter`, and one of the small shards.

    Raises:
        StorageError: one of the small shards is missing or damaged.
    """
    writer = ShardWriter(store, prefix, limit)
    for entry in shards:
        shard = _find(store, entry.index.key)
        if shard is None or shard.entry != entry:
            raise StorageError(f"the shard {store.uri(entry.tar.key)} is damaged", todo="run again to recreate it")
        for number, name in enumerate(shard.index.names):
            writer.add(name, shard.members(number))
    return writer.close()


def _describes(index: ShardIndex, tar: bytes) -> bool:
    """Whether the index has exactly the members of the tar file, so that no damage of the index goes unnoticed."""
    found = {
        f"{name}.{extension}": (place.offset, place.length, place.sha256)
        for number, name in enumerate(index.names)
        for extension, place in index.places(number).items()
    }
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        places = {item.name: (item.offset_data, item.size) for item in archive}
    return found == {
        name: (start, size, hashlib.sha256(tar[start : start + size]).digest())
        for name, (start, size) in places.items()
    }


def _find(store: Store, key: str) -> FoundShard | None:
    """The shard whose index has this key, or None if it is not complete."""
    data = store.get(key)
    try:
        index = parse_index(data, store.uri(key))
    except StorageError:
        return None
    if store.size(index.tar.key) != index.tar.size:
        return None
    tar = store.get(index.tar.key)
    if hashlib.sha256(tar).hexdigest() != index.tar.sha256 or not _describes(index, tar):
        return None
    stored = StoredObject(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return FoundShard(ShardEntry(tar=index.tar, index=stored, records=len(index)), index, tar)
