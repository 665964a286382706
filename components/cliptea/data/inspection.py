"""`cliptea data check`: reads a data set as the split step does, and collects everything that is wrong with it."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.datasets import Dataset, open_dataset
from cliptea.data.reader import UNLISTED
from cliptea.data.sample import require_labels
from cliptea.errors import ClipteaError, DataError

__all__ = ["Inspection", "Looked", "Part", "default_workers", "examined", "finish", "sampled"]

CHUNK = 16  # images that a worker looks at before it answers
USES = {"train": "learned", "val": "scored"}  # what is done with a class
THREADS = 16  # for a data set in S3, where most time is spent waiting

_opened: Dataset | None = None  # of this worker process


class Looked(NamedTuple):
    """What is found in one image."""

    part: str
    name: str
    pixels: np.ndarray | None  # (256,) int64 pixels of each train id; None: it cannot be used
    content: bytes  # sha256 of the image file
    turned: bool  # by its EXIF orientation
    wrong: tuple[str, str] = ("", "")  # what is wrong, and the advice of the error


@dataclass
class Part:
    """The images of "train" or "val"."""

    images: int = 0
    turned: list[str] = field(default_factory=list)  # names of the images that EXIF turns
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # of each train id
    shown_in: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))  # images that have the train id


@dataclass
class Inspection:
    """Everything that is known about a data set. Errors end a run, and warnings are what a user should know."""

    catalogue: Catalogue
    parts: dict[str, Part]
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by their advice
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # examples by kind
    bad: int = 0  # images that cannot be used
    contents: dict[bytes, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))  # (part, name)

    def add(self, looked: Looked) -> None:
        """Count one image."""
        if looked.pixels is None:
            what, advice = looked.wrong
            self.errors[advice].append(what)
            self.bad += 1
            return
        part = self.parts[looked.part]
        part.images += 1
        part.turned += [looked.name] * looked.turned
        part.pixels += looked.pixels
        part.shown_in += looked.pixels > 0
        self.contents[looked.content].append((looked.part, looked.name))


def examined(config: DataConfig, dataset: Dataset, names: dict[str, list[str]], workers: int) -> Iterator[list[Looked]]:
    """Look at all images of a data set in order, with several processes, or with threads if the data are in S3.

    A few images come at once, because the caller would otherwise be busy with showing its progress.

    Args:
        dataset: the data set, opened by this process.
        names: the images of each part.
        workers: number of processes.

    Raises:
        ClipteaError: a worker process was killed.
    """
    remote = config.root is not None and "://" in config.root
    chunks = [(part, ids[start : start + CHUNK]) for part, ids in names.items() for start in range(0, len(ids), CHUNK)]
    pool: Executor
    if remote or workers == 1:
        _open(config, dataset)
        pool = ThreadPoolExecutor(THREADS if remote else 1)
    else:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        inherited = dataset if sys.platform == "linux" else None
        pool = ProcessPoolExecutor(workers, context, initializer=_open, initargs=(config, inherited))
    waiting: deque[Future[list[Looked]]] = deque()
    try:
        with pool:
            for part, ids in chunks:
                waiting.append(pool.submit(_look, part, ids))
                if len(waiting) > 4 * workers:  # results do not pile up
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ClipteaError(
            "a process that reads images was killed", "enough memory for the largest image", "use fewer --workers"
        ) from None
    finally:
        for future in waiting:
            future.cancel()


def _open(config: DataConfig, dataset: Dataset | None) -> None:
    global _opened
    _opened = dataset or open_dataset(config)


def _look(part: str, names: Sequence[str]) -> list[Looked]:
    assert _opened is not None
    found = []
    for name in names:
        try:
            sample = _opened.read(part, name)
            require_labels(sample, name)
        except DataError as error:
            found.append(Looked(part, name, None, b"", False, (error.what, error.advice)))
            continue
        pixels = np.array(Image.fromarray(sample.labels).histogram())  # faster than numpy's bincount
        found.append(Looked(part, name, pixels, hashlib.sha256(sample.image).digest(), sample.turned))
    return found


def finish(found: Inspection, dataset: Dataset, max_bad: int) -> None:
    """Add what only the whole data set shows: absent classes, images in both parts, files that are not used.

    A run leaves out `max_bad` images that cannot be used, so as many are no errors if others are left in each part.
    """
    if 0 < found.bad <= max_bad and all(part.images for part in found.parts.values()):
        left_out = [f"{what}; expected {advice}" for advice, whats in found.errors.items() for what in whats]
        found.warnings[f"images that cannot be used and are left out, as data.max_bad={max_bad} allows"] += left_out
        found.errors.clear()
    wanted = {"train": found.catalogue.seen, "val": found.catalogue.classes}
    for part, counted in found.parts.items():
        for index, name in enumerate(found.catalogue.classes):
            if name in wanted[part] and counted.images and not counted.pixels[index]:
                shown = f"{name} (unseen)" if name in found.catalogue.unseen else name
                found.warnings[f"classes that no {part} image shows, so they cannot be {USES[part]}"].append(shown)
        if counted.turned:
            found.warnings[
                f"{part} images that are turned upright as their EXIF orientation says, and label maps that were drawn "
                "on the raw pixels do not fit them"
            ] += counted.turned
    for places in found.contents.values():
        parts = {part for part, _ in places}
        if len(parts) > 1:
            found.warnings["images that are both in train and in val, so the scores say too much"].append(
                " = ".join(f"{part}/{name}" for part, name in places)
            )
        elif len(places) > 1:
            found.warnings[f"images that occur more than once in {places[0][0]}"].append(
                " = ".join(name for _, name in places)
            )
    for why, paths in dataset.left_out(tuple(found.parts)).items():
        if why != UNLISTED:
            found.warnings[f"files and folders that are not used ({why})"].extend(paths)


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sampled(names: Sequence[str], number: int) -> list[str]:
    """At most `number` names, evenly spaced."""
    step = max(1, -(-len(names) // number))
    return list(itertools.islice(names, 0, None, step))
