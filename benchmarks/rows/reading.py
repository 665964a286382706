"""Reading shards through the reader against reading the same bytes raw from the same disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.measure import Bench, Row, interleaved, speed
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.storage import FileStore

MIB = 1 << 20  # a dense record is 1 MiB
PIECE = MIB  # the raw side is fastest so; pieces of 8 MiB leave the processor's cache

NOTE = (
    "Reader: every byte is compared with its sha256 and written to memory that the system clears first, while the "
    "raw side reads into one piece of memory again and again. Each of the two takes about as long as reading from "
    "the disk, so two cores that share the work cannot reach 0.8. Other numbers of threads, request sizes and huge "
    "pages were not faster. In a trial, BLAKE3's wheel hashed 1.3 times as fast as sha256, which the processor has "
    "instructions for, and XXH3 15 times; but shards are named by their sha256, and XXH3 does not protect against a "
    "changed object. Only clustering reads dense tokens, and it takes far longer than reading them. With S3, the "
    "network is the limit."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Dense tokens in their order, first from the disk itself, then from the memory that the system keeps files in."""
    total = 16 if bench.quick else 256
    folder = bench.folder / "reading"
    store = FileStore(folder)
    writer = ShardWriter(store, "dense/dense", 64 * MIB)
    rng = np.random.default_rng(0)
    for number in range(total):
        writer.add(f"{number:06d}", {"npy": rng.bytes(MIB)})
    objects = put_top_index(store, "dense/dense", writer.close())
    tars = sorted(folder.rglob("*.tar"))
    os.sync()

    def raw(cold: bool) -> None:
        if cold:
            _forget(tars)
        for tar in tars:
            with tar.open("rb", buffering=0) as file:
                while file.read(PIECE):
                    pass

    def ours(cold: bool) -> None:
        if cold:
            _forget(tars)
        for _ in ShardReader(store, objects, "dense").stream("npy"):
            pass

    data = rng.bytes(PIECE)
    for cold in (True, False):
        first, second, hashing = interleaved(
            bench.repeats, lambda c=cold: ours(c), lambda c=cold: raw(c), lambda: hashlib.sha256(data)
        )
        hashed = PIECE / MIB / median(hashing)
        yield Row(
            "reading shards in their order, " + ("from the disk" if cold else "from memory (file cache)"),
            f"reader, hashes checked: {total / median(first):.0f} MiB/s (one core hashes {hashed:.0f})",
            f"raw: {total / median(second):.0f} MiB/s",
            speed(first, second),
            0.8 if cold else None,
            note=NOTE,
        )


def _forget(tars: list[Path]) -> None:
    """Make the system forget what it keeps of the files."""
    for tar in tars:
        handle = os.open(tar, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
