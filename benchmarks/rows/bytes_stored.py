"""What training reads of a view, stored, against its dense tokens."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from benchmarks.measure import Bench, Row
from benchmarks.world import SHAPES
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.storage import FileStore

VIEWS = 20_000  # of CLS tokens and region maps: a shard
DENSE = 64  # dense records; more differ in nothing


def measure(bench: Bench) -> Iterator[Row]:
    """Shards as the teacher step leaves them: tar, indexes and padding count."""
    dim, grid, views = SHAPES["D"], SHAPES["g"], 100 if bench.quick else VIEWS
    sets = {
        "cls": (np.zeros(dim, dtype=np.float32), views),
        "regions": (np.zeros((grid, grid), dtype=np.uint8), views),
        "dense": (np.zeros((dim, grid, grid), dtype=np.float16), 4 if bench.quick else DENSE),
    }
    sizes = {}
    for name, (array, records) in sets.items():
        store = FileStore(bench.folder / "bytes" / name)
        writer = ShardWriter(store, f"{name}/{name}", 64 << 20)
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        for number in range(records):
            writer.add(f"2008_{number:06d}.v0", {"npy": buffer.getvalue()})
        put_top_index(store, f"{name}/{name}", writer.close())
        sizes[name] = sum(entry.size for entry in store.entries("")) / records
    ours = sizes["cls"] + sizes["regions"]
    yield Row(
        "bytes stored a view",
        f"CLS token and region map: {ours:.0f}",
        f"dense fp16 tokens: {sizes['dense']:.0f}",
        ours / sizes["dense"],
        0.01,
        at_most=True,
        details=sizes,
    )
