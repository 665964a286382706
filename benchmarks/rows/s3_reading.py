"""Parallel S3 reads against one request after the other, with 20 ms added to each request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.delay import SECONDS
from benchmarks.measure import Bench, Row, environment, interleaved, speed
from cliptea.data.ahead import ahead
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import CHUNK, ShardReader
from cliptea.storage.s3_store import S3Store

SERVER = Path(__file__).parents[2] / "tests/storage"  # where the tests keep the server that they start
KIB = 1 << 10

NOTE = (
    "S3, one request at a time: requests of the same size, one after the other. Small records are cached on the "
    "machine together with their neighbours."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Records of a photo's size in random order, as training reads them, and dense tokens in theirs."""
    sys.path.insert(0, str(SERVER))
    import s3_server  # pyright: ignore[reportMissingImports]

    folder = bench.folder / "s3"
    folder.mkdir()
    with s3_server.running(folder, "benchmarks.delay:build") as host:
        names = {"AWS_ACCESS_KEY_ID": s3_server.ACCESS, "AWS_SECRET_ACCESS_KEY": s3_server.SECRET}
        with environment(CLIPTEA_CACHE_GIB="0", CLIPTEA_S3_ENDPOINT=f"http://{host}", **names):
            records = 8 if bench.quick else 128
            photos = _fill(S3Store(s3_server.BUCKET, "photos"), records, 100 * KIB)
            yield _random(bench, ShardReader(S3Store(s3_server.BUCKET, "photos"), photos, "set"))
            dense = _fill(S3Store(s3_server.BUCKET, "dense"), records, 1024 * KIB)
            yield _stream(bench, S3Store(s3_server.BUCKET, "dense"), dense)


def _random(bench: Bench, reader: ShardReader) -> Row:
    order = np.random.default_rng(0).permutation(len(reader)).tolist()
    reader.members(0)
    first, second = interleaved(
        bench.repeats,
        lambda: list(ahead(reader.members, order)),
        lambda: [reader.members(number) for number in order],
    )
    return _row("records of 100 KiB in random order", first, second, len(order) * 100 / KIB)


def _stream(bench: Bench, store: S3Store, objects: Any) -> Row:
    reader = ShardReader(store, objects, "set")
    tars = [(entry.key, entry.size) for entry in store.entries("") if entry.key.endswith(".tar")]

    def one_by_one() -> None:
        for key, size in tars:
            for start in range(0, size, CHUNK):
                store.get(key, start, min(CHUNK, size - start))

    first, second = interleaved(bench.repeats, lambda: sum(map(len, reader.stream("npy"))), one_by_one)
    return _row(f"records of 1 MiB in their order, {CHUNK >> 20} MiB a request", first, second, len(reader))


def _row(what: str, first: list[float], second: list[float], mib: float) -> Row:
    return Row(
        f"S3, {1000 * SECONDS:.0f} ms a request: {what}",
        f"parallel: {mib / median(first):.0f} MiB/s",
        f"one request at a time: {mib / median(second):.0f} MiB/s",
        speed(first, second),
        3,
        note=NOTE,
    )


def _fill(store: S3Store, records: int, size: int) -> Any:
    writer, rng = ShardWriter(store, "set", 64 << 20), np.random.default_rng(0)
    for number in range(records):
        writer.add(f"{number:06d}", {"npy": rng.bytes(size)})
    return put_top_index(store, "set", writer.close())
