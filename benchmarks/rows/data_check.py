"""`cliptea data check` of a folder of small images, against decoding the same files alone; and its memory."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.measure import Bench, Row, interleaved, speed
from cliptea.config import DataConfig
from cliptea.cores import cores
from cliptea.data.datasets import Dataset, open_dataset
from cliptea.data.inspection import CHUNK
from cliptea_pipeline.data_cli import inspect

SIDE = 256  # pixels
IMAGES = 10_000
NOTE = (
    "Data check: decoding alone means reading each image and label map and decoding both into arrays with Pillow, in "
    "as many processes. Memory is that of the process that collects the counts. It keeps 16 bytes an image, and the "
    "list of files, which every run makes, takes 1 kB an image."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Folders of images of 256x256 pixels, as JPEG with label maps in PNG, with all processors."""
    number = 100 if bench.quick else IMAGES
    workers = cores()
    root = _written(bench.folder / "data_check", number)
    _decode_all(root, workers)  # warms the file cache
    checked, decoded = interleaved(
        min(3, bench.repeats), lambda: _check(root, workers), lambda: _decode_all(root, workers)
    )
    yield Row(
        f"data check of {number:,} images of {SIDE}x{SIDE}, {workers} processes : decoding alone",
        f"{number / median(checked):.0f} images/s",
        f"{number / median(decoded):.0f} images/s",
        speed(checked, decoded),
        0.8,
        note=NOTE,
    )
    listed, checked_too = _memory(root, _written(bench.folder / "data_check_few", 20), workers)
    yield Row(
        f"data check, memory: {number:,} images : the list of their files alone",
        f"{checked_too:.0f} MiB",
        f"{listed:.0f} MiB",
        checked_too / listed,
        1.1,
        at_most=True,
    )


def _written(root: Path, number: int) -> Path:
    """A folder whose images differ, with a few shapes of each class, as photos and their labels compress."""
    rng = np.random.default_rng(0)
    for index in range(number):
        part = "val" if index % 10 == 0 else "train"
        coarse = rng.integers(0, 4, (6, 6), dtype=np.uint8)
        labels = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        image = noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for kind, picture, suffix in (("images", image, "jpg"), ("labels", labels, "png")):
            file = root / kind / part / f"{index:06d}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
    described = {"classes": ["sky", "road", "tree", "car"], "unseen": ["car"]}
    (root / "classes.json").write_text(json.dumps(described))
    return root


def _check(root: Path, workers: int) -> None:
    config = DataConfig(dataset="folder", root=str(root))
    dataset = open_dataset(config)
    found = inspect(config, dataset, _names(dataset), workers)
    assert not found.errors


def _names(dataset: Dataset) -> dict[str, list[str]]:
    return {part: dataset.ids(part) for part in ("train", "val")}


def _decode_all(root: Path, workers: int) -> None:
    images = sorted(root.glob("images/*/*.jpg"))
    pairs = [(image, root / "labels" / image.parent.name / f"{image.stem}.png") for image in images]
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        assert sum(pool.map(_decode, chunks)) == len(pairs)


def _decode(pairs: list[tuple[Path, Path]]) -> int:
    for pair in pairs:
        for file in pair:
            with Image.open(file) as image:
                np.array(image)
    return len(pairs)


def _memory(root: Path, few: Path, workers: int) -> tuple[float, float]:
    """Peak memory in MiB of a process after it has listed the files of a folder, and after it has checked them.

    Before, it checks a `few` images, so that all modules are imported.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peaks, root, few, workers).result()


def _peaks(root: Path, few: Path, workers: int) -> tuple[float, float]:
    _check(few, workers)
    _names(open_dataset(DataConfig(dataset="folder", root=str(root))))
    listed = _peak()
    _check(root, workers)
    return listed, _peak()


def _peak() -> float:
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(peak) / 1024
