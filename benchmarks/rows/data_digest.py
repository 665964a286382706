"""The digest of a data folder, which every run makes first, against listing the folder alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Bench, Row, interleaved, speed
from cliptea.config import DataConfig
from cliptea.data.folder import Folder

NOTE = (
    "Digest of a data folder: asking the system for size and time takes 4 µs a file. The digest also sorts the "
    "names, pairs images with label maps in any Unicode form and case of the suffix, tells apart what is left out, "
    "and hashes a line for each file. In Python this takes another 10 µs a file, so a million files take 15 "
    "seconds, once a run."
)


def measure(bench: Bench) -> Iterator[Row]:
    """20,000 empty images with label maps; the other side asks for the size of every file, as the digest has to."""
    pairs = 100 if bench.quick else 20_000
    root = bench.folder / "images_and_labels"
    folders = [root / kind / split for kind in ("images", "labels") for split in ("train", "val")]
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(pairs):
        split = "val" if number % 10 == 0 else "train"
        (root / "images" / split / f"frame_{number:06d}.jpg").touch()
        (root / "labels" / split / f"frame_{number:06d}.png").touch()
    (root / "classes.json").write_text(json.dumps({"classes": ["cow", "grass"], "unseen": ["grass"]}))
    config = DataConfig(dataset="folder", root=str(root))

    def listing() -> int:
        return sum(item.stat().st_size for folder in folders for item in os.scandir(folder))

    digest, bare = interleaved(bench.repeats, lambda: Folder(config).digest(), listing)
    yield Row(
        f"digest of a data folder of {pairs:,} images : os.scandir with sizes",
        f"{median(digest):.2f} s",
        f"{median(bare):.2f} s",
        1 / speed(digest, bare),
        1.5,
        at_most=True,
        note=NOTE,
    )
