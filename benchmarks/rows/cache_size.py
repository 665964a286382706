"""Opening a cache of ten million views for one training process: its time and its memory.

Simulated: the top indexes of images, CLS tokens and region maps name every shard at its true size; the shards of a set
share one index file, and there is no tar. What opens is a process of its own, without torch, whose memory is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Bench, Row
from cliptea.data.shard_index import Place, dump_index
from cliptea.data.shard_sets import ShardEntry, put_top_index
from cliptea.manifest import StoredObject, put_object
from cliptea.storage import FileStore

__all__ = ["MIB", "SECONDS", "VIEWS", "open_one", "simulate"]

VIEWS = 10_000_000
SECONDS, MIB = 2.0, 300  # at most
SETS = {"train": 640, "cls": 21845, "regions": 32768}  # records of a shard of 64 MiB: 100, 3 and 2 KiB each
OPEN = """
import json, re, sys, time
import numpy as np
from cliptea.data.shards import ShardReader
from cliptea.manifest import StoredObject
from cliptea.storage import open_store
sets = {name: {name: StoredObject(**item)} for name, item in json.loads(sys.argv[2]).items()}
start = time.perf_counter()
readers = [ShardReader(open_store(sys.argv[1]), objects, name) for name, objects in sets.items()]
opened = time.perf_counter() - start
order = np.random.default_rng(0).permutation(np.arange(len(readers[0]), dtype=np.int32))[:64]
names = [reader.name(number) for number in order.tolist() for reader in readers]
assert len(names) == 64 * len(sets)
print(json.dumps({
    "views": len(readers[1]), "seconds": opened, "with_first_batch": time.perf_counter() - start,
    "mib": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024,
}))
"""

NOTE = (
    "Opening a cache: this means reading the top indexes. One simulated index file stands for many of the same "
    "size. The index of a 64 MiB shard describes 20,000 CLS tokens; a reader keeps the indexes of a million "
    "records, and reads another index in about 20 ms. VOC, PASCAL Context and COCO-Stuff with their presets have "
    "fewer records."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Two rows, each against its limit; beside the opening, the indexes that a first batch of 64 views needs."""
    views = 100_000 if bench.quick else VIEWS
    store = FileStore(bench.folder / "large")
    tops = simulate(store, views)
    found = [open_one(store, tops) for _ in range(bench.repeats)]
    seconds, whole, mib = (median(one[name] for one in found) for name in ("seconds", "with_first_batch", "mib"))
    what, more = f"opening a cache of {views:,} views", f"{whole:.2f} s with an epoch's order and 192 shards' indexes"
    yield Row(
        f"{what}: time", f"{seconds:.2f} s; {more}", f"the goal, {SECONDS:g} s", seconds / SECONDS, 1, at_most=True
    )
    yield Row(
        f"{what}: memory",
        f"{mib:.0f} MiB, the whole process",
        f"the goal, {MIB} MiB",
        mib / MIB,
        1,
        at_most=True,
        note=NOTE,
    )


def simulate(store: FileStore, views: int) -> dict[str, StoredObject]:
    """Top indexes of a cache of so many images with one view each, by the name of the set."""
    return {name: _simulate(store, name, views, records) for name, records in SETS.items()}


def open_one(store: FileStore, tops: dict[str, StoredObject]) -> dict[str, float]:
    """Open all sets in a new process: views, seconds, seconds with a first batch, MiB at the most."""
    described = json.dumps({name: item.model_dump() for name, item in tops.items()})
    command = [sys.executable, "-c", OPEN, store.uri(""), described]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _simulate(store: FileStore, name: str, views: int, records: int) -> StoredObject:
    members = ("jpg", "label.png") if name == "train" else ("npy",)
    tar = StoredObject(key=f"kind/fingerprint/{name}/00000-{0:016x}.tar", size=64 << 20, sha256="0" * 64)
    room = tar.size // (records * len(members))  # bytes

    def index(rows: int) -> StoredObject:
        places = [
            {
                member: Place(room * (row * len(members) + part), room, bytes([row % 256]) * 32)
                for part, member in enumerate(members)
            }
            for row in range(rows)
        ]
        return put_object(
            store, f"{name}-{rows}.index.json", dump_index(tar, [f"{row:012d}.v0" for row in range(rows)], places)
        )

    sizes = [min(records, views - start) for start in range(0, views, records)]
    indexes = {rows: index(rows) for rows in {*sizes}}
    shards = [
        ShardEntry(
            tar=tar.model_copy(update={"key": str(Path(tar.key).with_name(f"{number:05d}-{number:016x}.tar"))}),
            index=indexes[rows],
            records=rows,
        )
        for number, rows in enumerate(sizes)
    ]
    (top,) = put_top_index(store, f"kind/fingerprint/{name}", shards).values()
    return top
