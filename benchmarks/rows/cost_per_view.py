"""What a record costs to read, in a set of a thousand and in one of a hundred thousand."""

from __future__ import annotations

import io
from collections.abc import Iterator
from statistics import median

import numpy as np

from benchmarks.measure import Bench, Row, interleaved
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.manifest import StoredObject
from cliptea.storage import FileStore


def measure(bench: Bench) -> Iterator[Row]:
    """One epoch over CLS tokens in random order, opening and indexes included; the small set as often as it takes."""
    few, many = (100, 1000) if bench.quick else (1000, 100_000)
    store = FileStore(bench.folder / "records")
    small, large = _write(store, few), _write(store, many)

    def small_epochs() -> None:
        for _ in range(10):
            _epoch(store, small)

    small_epochs()
    first, second = interleaved(bench.repeats, lambda: _epoch(store, large), small_epochs)
    costs = [a / many / (b / few / 10) for a, b in zip(first, second, strict=True)]
    yield Row(
        "cost of a record as the set grows",
        f"of {many:,}: {1e6 * median(first) / many:.0f} µs",
        f"of {few:,}: {1e6 * median(second) / few / 10:.0f} µs",
        median(costs),
        1.25,
        at_most=True,
        note="Cost of a record: the limit of 1.25 is our choice.",
    )


def _write(store: FileStore, records: int) -> dict[str, StoredObject]:
    """CLS tokens in shards of the size that the teacher step leaves."""
    rng, writer = np.random.default_rng(0), ShardWriter(store, f"{records}/cls", 64 << 20)
    for view in range(records):
        buffer = io.BytesIO()
        np.save(buffer, rng.random(512, dtype=np.float32), allow_pickle=False)
        writer.add(f"{view:012d}.v0", {"npy": buffer.getvalue()})
    return put_top_index(store, f"{records}/cls", writer.close())


def _epoch(store: FileStore, objects: dict[str, StoredObject]) -> None:
    reader = ShardReader(store, objects, "cls")
    for number in np.random.default_rng(1).permutation(len(reader)).tolist():
        reader.members(number)
