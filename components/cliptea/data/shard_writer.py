"""Writing shards, and finding those that an earlier run left whole (format: SHARDS.md)."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from cliptea.data.shard_index import Place, ShardEntry, ShardIndex, dump_index, parse_index
from cliptea.errors import StorageError
from cliptea.manifest import StoredObject, put_object
from cliptea.storage import Store

__all__ = ["FoundShard", "ShardWriter", "found_shards"]


class ShardWriter:
    """Collects records, and puts a shard each time `limit` bytes are reached while the next one grows.

    Memory: the shard that grows, and the one that is being put with a copy of it; three times `limit` and a record.
    """

    def __init__(self, store: Store, prefix: str, limit: int, found: Sequence[ShardEntry] = ()) -> None:
        """
        Args:
            store: where the shards go.
            prefix: first part of their keys; `-00000.tar` and so on follow.
            limit: a shard is closed when it has grown to so many bytes or more.
            found: the first shards, which are there already.
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
        """Append a record; the bytes written depend on names and content only."""
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
        keys = _keys(self._prefix, len(self._entries))
        self._pending = self._uploads.submit(
            _put, self._store, keys, self._buffer.getvalue(), self._names, self._records
        )
        self._begin()

    def _await(self) -> None:
        if self._pending is not None:
            self._entries.append(self._pending.result())
            self._pending = None

    def close(self) -> list[ShardEntry]:
        """Put what is left and return all shards in order.

        Raises:
            StorageError: a shard could not be put.
        """
        if self._names:
            self._end()
        self._await()
        self._uploads.shutdown()
        return self._entries


def _keys(prefix: str, number: int) -> tuple[str, str]:
    return f"{prefix}-{number:05d}.tar", f"{prefix}-{number:05d}.index.json"


def _put(
    store: Store, keys: tuple[str, str], tar: bytes, names: list[str], records: list[dict[str, Place]]
) -> ShardEntry:
    stored = put_object(store, keys[0], tar)
    index = put_object(store, keys[1], dump_index(stored, names, records))  # last: a shard with an index is whole
    return ShardEntry(tar=stored, index=index, records=len(names))


class FoundShard(NamedTuple):
    """A shard that is there whole."""

    entry: ShardEntry
    index: ShardIndex
    tar: bytes

    def content(self, number: int, extension: str) -> bytes:
        """A member of a record."""
        place = self.index.places(number)[extension]
        return self.tar[place.offset : place.offset + place.length]


def found_shards(store: Store, prefix: str) -> Iterator[FoundShard]:
    """Whole shards of that prefix in order, up to the first whose bytes are missing or not those of its index."""
    number = 0
    while (found := _find(store, _keys(prefix, number))) is not None:
        yield found
        number += 1


def _find(store: Store, keys: tuple[str, str]) -> FoundShard | None:
    if store.size(keys[1]) is None:
        return None
    data = store.get(keys[1])
    try:
        index = parse_index(data, store.uri(keys[1]))
    except StorageError:
        return None
    if store.size(keys[0]) != index.tar.size:
        return None
    tar = store.get(keys[0])
    if hashlib.sha256(tar).hexdigest() != index.tar.sha256:
        return None
    stored = StoredObject(key=keys[1], size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return FoundShard(ShardEntry(tar=index.tar, index=stored, records=len(index.names)), index, tar)
