"""Reads shards, which are plain tar files of records. Each has an index with the position of every member (SHARDS.md).

A record has a name and members (`NAME.EXTENSION` in the tar file). Records are found by their number in the set, which
needs the index of one shard, or by their name, which needs the indexes of all shards.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from itertools import accumulate, islice
from typing import NamedTuple, TypeVar

from cliptea.data.ahead import ahead
from cliptea.data.shard_cache import ShardCache, open_cache
from cliptea.data.shard_index import Place, ShardIndex, parse_index
from cliptea.data.shard_sets import read_top_index
from cliptea.errors import ServerAway, StorageError
from cliptea.manifest import StoredObject, discarded, read_object
from cliptea.storage import Store, is_remote

__all__ = ["ShardReader"]

Result = TypeVar("Result")
INDEXED = 1_000_000  # records whose index is in memory: about 70 MB, or 120 MB for images
CHUNK = 2 << 20  # bytes (plus at most one record) per request for sequential reads
SMALL = 64 << 10  # for records of up to this many bytes, neighbours are fetched for the shard cache too,
BLOCK = 1 << 20  # up to this many bytes in total; an epoch reads every token and region map, a few KiB each
STREAMS = 16, 4  # parallel sequential requests for a remote store and for a disk


class Span(NamedTuple):
    """Consecutive records of one shard that are read with one request."""

    shard: int
    first: int  # number of the first record
    places: list[Place]


class ShardReader:
    """Random access to the records of a shard set. The hash of all bytes is checked when they are read.

    Remote data are kept in the node's shard cache. A reader can be used from several threads and forked processes.

    Attributes:
        remote: whether the store is remote, so that reads mostly wait for answers.
    """

    def __init__(self, store: Store, objects: Mapping[str, StoredObject], name: str) -> None:
        """Open a shard set. This only reads the top index.

        Args:
            objects: the objects of a manifest.

        Raises:
            StorageError: the top index is missing or damaged, or has an unknown version.
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
        """The name of the record with this number."""
        shard, place = self._find(number)
        return self._index(shard).name(place)

    @cached_property
    def names(self) -> list[str]:
        """The names of all records in the order of writing. This reads all indexes."""
        return [name for shard in range(len(self._shards)) for name in self._index(shard).names]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def read(self, record: str | int, extension: str) -> bytes:
        """One member of a record; see `members`."""
        shard, places = self._places(record)
        return self._checked(record, shard, {extension: places[extension]})[extension]

    def members(self, record: str | int) -> dict[str, bytes]:
        """All members of a record by extension, read with one request.

        Args:
            record: name of the record, or its number in the set.

        Raises:
            StorageError: the shard is missing, or the bytes are wrong in two attempts.
        """
        return self._checked(record, *self._places(record))

    def stream(self, extension: str, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """One member of each record from `start` to before `stop`, read in advance with parallel requests.

        Use this for a single pass over large members. It does not use the shard cache. Memory: at most 66 MiB and 33
        records for a remote store, and 18 MiB and 9 records for a disk.

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
        """The shard of a record and its position in the shard."""
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard] - self._shards[shard].records)

    def _index(self, shard: int) -> ShardIndex:
        found = self._indexes.get(shard)
        if found is None:
            item = self._shards[shard].index
            uri = self._store.uri(item.key)
            found = parse_index(read_object(self._store, item), uri)
            if len(found) != self._shards[shard].records:
                raise StorageError(
                    f"{uri} has {len(found)} records", f"{self._shards[shard].records}, as its set says", "run again"
                )
            self._indexes[shard] = found
            self._forget(shard)
        return found

    def _forget(self, newest: int) -> None:
        """Drop the oldest indexes if there are too many. Lists are copied, because other threads change them."""
        total = sum(map(len, list(self._indexes.values())))
        for shard in list(self._indexes):
            if total <= INDEXED or shard == newest:
                return
            dropped = self._indexes.pop(shard, None)
            total -= 0 if dropped is None else len(dropped)

    def _checked(self, record: str | int, shard: int, places: Mapping[str, Place]) -> dict[str, bytes]:
        """Read neighbouring members with correct hashes from the cache or the store."""
        tar = self._shards[shard].tar
        start = min(place.offset for place in places.values())
        length = max(place.offset + place.length for place in places.values()) - start

        def right(data: bytes) -> dict[str, bytes] | None:
            parts = {ext: data[p.offset - start : p.offset - start + p.length] for ext, p in places.items()}
            return parts if all(_right(parts[ext], place) for ext, place in places.items()) else None

        wrong = []

        def fetch() -> dict[str, bytes] | None:
            first, last = start, start + length
            if self._cache is not None and length <= SMALL:
                first, last = first // BLOCK * BLOCK, min(-(-last // BLOCK) * BLOCK, tar.size)
            data = self._store.get(tar.key, first, last - first)
            parts = right(data[start - first : start - first + length])
            if parts is None:
                wrong.append(data)
            elif self._cache is not None:
                self._cache.write(tar.sha256, first, data)
            return parts

        cached = None if self._cache is None else self._cache.read(tar.sha256, start, length)
        # A second fetch, since the first may have been damaged on its way. Each is repeated if it is truncated.
        parts = (None if cached is None else right(cached)) or _with_one_retry(fetch) or _with_one_retry(fetch)
        if parts is None:
            name = record if isinstance(record, str) else self.name(record)
            what = f"the shard {self._store.uri(tar.key)} with the record {name}.{'/'.join(places)}"
            raise discarded(self._store, tar.key, wrong, what, "the sha256 in its index")
        return parts

    def _spans(self, extension: str, start: int, stop: int | None) -> Iterator[Span]:
        """Split the records from `start` to before `stop` into parts for one request each."""
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
        """The members of a span. A missing or wrong member is read again separately."""
        start, last = span.places[0].offset, span.places[-1]
        key = self._shards[span.shard].tar.key
        data = memoryview(_with_one_retry(lambda: self._store.get(key, start, last.offset + last.length - start)))
        parts = [data[place.offset - start : place.offset - start + place.length] for place in span.places]
        return [
            part if _right(part, place) else memoryview(self.read(number, extension))
            for number, (part, place) in enumerate(zip(parts, span.places, strict=True), span.first)
        ]


def _with_one_retry(work: Callable[[], Result]) -> Result:
    """Call `work`, and repeat it once if something is missing or truncated.

    Raises:
        StorageError: the second attempt failed as well.
    """
    try:
        return work()
    except ServerAway:  # `work` has already waited for the server
        raise
    except StorageError:
        return work()


def _right(data: bytes | memoryview, place: Place) -> bool:
    return hashlib.sha256(data).digest() == place.sha256
