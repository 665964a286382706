"""Reading shards: plain tar files of records, each with an index of where every member lies (SHARDS.md).

A record is a name and its members (`NAME.EXTENSION` in the tar). Records are found by their number in the set or by
name; numbers need the index of one shard only, names those of all.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import accumulate, islice
from typing import NamedTuple

from cliptea.data.ahead import ahead
from cliptea.data.shard_cache import ShardCache, open_cache
from cliptea.data.shard_index import Place, ShardIndex, parse_index
from cliptea.data.shard_sets import read_top_index, twice
from cliptea.errors import StorageError
from cliptea.manifest import StoredObject, read_object
from cliptea.storage import Store, is_remote

__all__ = ["ShardReader"]

INDEXED = 1_000_000  # records whose index is kept in memory: about 70 MB, of images about 120 MB
CHUNK = 2 << 20  # bytes, or a record more, of one request when records are read in their order
SMALL = 64 << 10  # bytes of a record up to which its neighbours are fetched for the shard cache with it,
BLOCK = 1 << 20  # so many bytes in all: an epoch reads every token and region map, a few KiB each
STREAMS = 16, 4  # such requests at a time, of a remote store and of a disk


class Span(NamedTuple):
    """Records of one shard that lie one behind the other, read by one request."""

    shard: int
    first: int  # number of the first of them
    places: list[Place]


class ShardReader:
    """Random access to the records of a shard set. Bytes are checked against their hash as they are read.

    What is remote is kept in the node's shard cache. A reader may be used from several threads and forked processes.

    Attributes:
        remote: whether most of the time of a read is waiting for an answer.
    """

    def __init__(self, store: Store, objects: Mapping[str, StoredObject], name: str) -> None:
        """Read the top index and nothing else.

        Args:
            store: where the shards are.
            objects: those of a manifest.
            name: of the shard set.

        Raises:
            StorageError: the top index is missing or damaged, or of a version that this reader does not know.
        """
        self._store, self.remote = store, is_remote(store.uri(""))
        self._cache: ShardCache | None = open_cache(store)
        self._shards = read_top_index(store, objects[name])
        self._ends = list(accumulate(shard.records for shard in self._shards))
        self._indexes: dict[int, ShardIndex] = {}

    def __len__(self) -> int:
        """Number of records."""
        return self._ends[-1] if self._ends else 0

    def name(self, number: int) -> str:
        """Name of the record of that number."""
        shard, place = self._find(number)
        return self._index(shard).name(place)

    @cached_property
    def names(self) -> list[str]:
        """Names of all records in the order of writing; reads every index."""
        return [name for shard in range(len(self._shards)) for name in self._index(shard).names]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def extensions(self, record: str | int) -> list[str]:
        """Extensions of a record's members."""
        return list(self._places(record)[1])

    def read(self, record: str | int, extension: str) -> bytes:
        """One member of one record, see `members`."""
        shard, places = self._places(record)
        return self._checked(record, shard, {extension: places[extension]})[extension]

    def members(self, record: str | int) -> dict[str, bytes]:
        """All members of one record by extension, read by one request.

        Args:
            record: its name, or its number in the set.

        Raises:
            StorageError: the shard is missing, or its bytes are not those that were written, at a second try as well.
        """
        return self._checked(record, *self._places(record))

    def stream(self, extension: str, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """That member of the records from number `start` to before `stop`, read in advance by several requests.

        For one pass over large members: nothing goes to the shard cache. Memory: at most 66 MiB and 33 records of a
        remote store, 18 MiB and 9 records of a disk.

        Raises:
            StorageError: as `members`.
        """
        streams = STREAMS[0 if self.remote else 1]
        for datas in ahead(partial(self._read_span, extension), self._spans(extension, start, stop), streams):
            yield from datas

    def _places(self, record: str | int) -> tuple[int, dict[str, Place]]:
        shard, place = self._find(self._numbers[record] if isinstance(record, str) else record)
        return shard, self._index(shard).places(place)

    def _find(self, number: int) -> tuple[int, int]:
        """The shard of a record and its place there."""
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard] - self._shards[shard].records)

    def _index(self, shard: int) -> ShardIndex:
        found = self._indexes.get(shard)
        if found is None:
            item = self._shards[shard].index
            data = twice(lambda: read_object(self._store, item))
            found = self._indexes[shard] = parse_index(data, self._store.uri(item.key))
            self._forget(shard)
        return found

    def _forget(self, newest: int) -> None:
        """Drop the oldest indexes while there are too many. Copies of lists, since other threads add to them."""
        total = sum(map(len, list(self._indexes.values())))
        for shard in list(self._indexes):
            if total <= INDEXED or shard == newest:
                return
            dropped = self._indexes.pop(shard, None)
            total -= 0 if dropped is None else len(dropped)

    def _checked(self, record: str | int, shard: int, places: Mapping[str, Place]) -> dict[str, bytes]:
        """Members that lie close together, from the cache or the store, whose hashes are right."""
        tar = self._shards[shard].tar
        start = min(place.offset for place in places.values())
        length = max(place.offset + place.length for place in places.values()) - start

        def right(data: bytes) -> dict[str, bytes] | None:
            parts = {ext: data[p.offset - start : p.offset - start + p.length] for ext, p in places.items()}
            return parts if all(_right(parts[ext], place) for ext, place in places.items()) else None

        def fetch() -> dict[str, bytes]:
            first, last = start, start + length
            if self._cache is not None and length <= SMALL:
                first, last = first // BLOCK * BLOCK, min(-(-last // BLOCK) * BLOCK, tar.size)
            data = self._store.get(tar.key, first, last - first)
            parts = right(data[start - first : start - first + length])
            if parts is None:
                name = record if isinstance(record, str) else self.name(record)
                raise StorageError(
                    f"the record {name}.{'/'.join(places)} of {self._store.uri(tar.key)} is damaged",
                    "the sha256 in its index",
                    "delete the file and run again",
                )
            if self._cache is not None:
                self._cache.write(tar.sha256, first, data)
            return parts

        cached = None if self._cache is None else self._cache.read(tar.sha256, start, length)
        return (None if cached is None else right(cached)) or twice(fetch)

    def _spans(self, extension: str, start: int, stop: int | None) -> Iterator[Span]:
        """The records from `start` to before `stop`, in pieces that one request each can read."""
        end = len(self) if stop is None else stop
        for shard, entry in enumerate(self._shards):
            first = self._ends[shard] - entry.records
            if self._ends[shard] <= start or first >= end:
                continue
            inside = islice(enumerate(self._index(shard).column(extension), first), max(start - first, 0), end - first)
            span = Span(shard, max(start, first), [])
            for number, place in inside:
                span.places.append(place)
                if place.offset + place.length - span.places[0].offset >= CHUNK:
                    yield span
                    span = Span(shard, number + 1, [])
            if span.places:
                yield span

    def _read_span(self, extension: str, span: Span) -> list[memoryview]:
        """The members of a span; one that is missing or wrong is read once more by itself."""
        start, last = span.places[0].offset, span.places[-1]
        key = self._shards[span.shard].tar.key
        data = memoryview(twice(lambda: self._store.get(key, start, last.offset + last.length - start)))
        parts = [data[place.offset - start : place.offset - start + place.length] for place in span.places]
        return [
            part if _right(part, place) else memoryview(self.read(number, extension))
            for number, (part, place) in enumerate(zip(parts, span.places, strict=True), span.first)
        ]


def _right(data: bytes | memoryview, place: Place) -> bool:
    return hashlib.sha256(data).digest() == place.sha256
