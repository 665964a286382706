"""`cliptea data check`: reads a data set as the split step does, and collects everything that is wrong with it."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import sys
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import numpy as np

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.datasets import Dataset, open_dataset
from cliptea.data.left_out import UNLISTED
from cliptea.data.part_counts import PartCounts
from cliptea.data.reader import Reader
from cliptea.data.sample import require_labels
from cliptea.data.split_shards import NOTHING_SEEN
from cliptea.errors import ClipteaError, DataError, portable
from cliptea.storage import is_remote

__all__ = ["Inspection", "Part", "examined", "finish", "sampled"]

CHUNK = 16  # images that a worker looks at before it answers
DIGEST = 16  # bytes of an image's sha256 that are kept, so that a million images take 16 MB
USES = {"train": "learned", "val": "scored"}  # what is done with a class
THREADS = 16  # for a data set in S3, where most time is spent waiting

UNREAD = bytes(DIGEST)

_opened: Dataset | None = None  # of this worker process


@dataclass
class Part:
    """What is found in images of "train" or "val", be it all of them or a few."""

    counts: PartCounts = field(default_factory=PartCounts)
    digests: bytearray = field(default_factory=bytearray)  # `DIGEST` bytes of each image file, 0 if it cannot be used
    wrong: list[tuple[str, str]] = field(default_factory=list)  # what is wrong, and the advice of the error

    def add(self, other: Part) -> None:
        """Count the images of `other`, which come next."""
        self.counts.add(other.counts)
        self.digests += other.digests
        self.wrong += other.wrong


@dataclass
class Inspection:
    """Everything that is known about a data set. Errors end a run, and warnings are what a user should know."""

    catalogue: Catalogue
    names: dict[str, list[str]]  # the images of each part
    parts: dict[str, Part] = field(init=False)
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by their advice
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # examples by kind

    def __post_init__(self) -> None:
        self.parts = {part: Part() for part in self.names}


def examined(
    config: DataConfig, dataset: Dataset, names: dict[str, list[str]], workers: int
) -> Iterator[tuple[str, Part]]:
    """Look at all images of a data set in order, with several processes, or with threads if the data are in S3.

    Args:
        dataset: the data set, opened by this process.
        names: the images of each part.
        workers: number of processes.

    Yields:
        What is found in the next few images of a part.

    Raises:
        ClipteaError: a worker process was killed.
    """
    remote = config.root is not None and is_remote(config.root)
    chunks = [(part, ids[start : start + CHUNK]) for part, ids in names.items() for start in range(0, len(ids), CHUNK)]
    pool: Executor
    if remote or workers == 1:
        _open(config, dataset)
        pool = ThreadPoolExecutor(THREADS if remote else 1)
    else:
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        inherited = dataset if sys.platform == "linux" else None
        workers = min(workers, len(chunks))
        pool = ProcessPoolExecutor(max(1, workers), context, initializer=_open, initargs=(config, inherited))
    waiting: deque[tuple[str, Future[Part]]] = deque()
    try:
        with pool:
            for part, ids in chunks:
                waiting.append((part, pool.submit(_look, part, ids)))
                if len(waiting) > 4 * workers:  # results do not pile up
                    first, future = waiting.popleft()
                    yield first, future.result()
            for rest, future in waiting:
                yield rest, future.result()
    except BrokenProcessPool:
        raise ClipteaError(
            "a process that reads images was killed", "enough memory for the largest image", "use fewer --workers"
        ) from None
    finally:
        for _, future in waiting:
            future.cancel()


def _open(config: DataConfig, dataset: Dataset | None) -> None:
    global _opened
    _opened = dataset or open_dataset(config)


def _look(part: str, names: Sequence[str]) -> Part:
    assert _opened is not None
    found = Part()
    for name in names:
        try:
            image, turned, pixels = _counted(_opened, part, name)
        except DataError as error:
            found.wrong.append((error.what, error.advice))
            found.digests += UNREAD
            continue
        except Exception as error:
            raise portable(error) from None
        found.counts.add_image(name, pixels, turned, _opened.catalogue.seen_ids)
        found.digests += hashlib.sha256(image).digest()[:DIGEST]
    return found


def _counted(dataset: Dataset, part: str, name: str) -> tuple[bytes, bool, np.ndarray]:
    """An image's bytes, whether it is turned by its EXIF orientation, and its (256,) int64 pixels of each train id."""
    if isinstance(dataset, Reader) and type(dataset).read is Reader.read:
        return dataset.count(part, name)
    sample = dataset.read(part, name)
    require_labels(sample, name)
    return sample.image, sample.turned, np.bincount(sample.labels.ravel(), minlength=256)


def _copies(found: Inspection) -> list[list[tuple[str, str]]]:
    """The images with the same file: (part, name) of each, in their order."""
    parts = [part for part, names in found.names.items() for _ in names]
    names = list(itertools.chain.from_iterable(found.names.values()))
    digests = np.frombuffer(b"".join(part.digests for part in found.parts.values()), np.dtype((np.void, DIGEST)))
    _, same, times = np.unique(digests, return_inverse=True, return_counts=True)
    groups = defaultdict(list)
    for index in np.flatnonzero(times[same] > 1):
        if bytes(digests[index]) != UNREAD:
            groups[same[index]].append((parts[index], names[index]))
    return list(groups.values())


def finish(found: Inspection, dataset: Dataset, max_bad: int) -> None:
    """Add what only the whole data set shows: absent classes, images in both parts, files that are not used.

    A run leaves out `max_bad` images that cannot be used, so up to that many are warnings and not errors, as long as
    each part has other images.
    """
    wrong = [one for part in found.parts.values() for one in part.wrong]
    if 0 < len(wrong) <= max_bad and all(part.counts.images for part in found.parts.values()):
        left_out = [f"{what}; expected {advice}" for what, advice in wrong]
        found.warnings[f"images that cannot be used and are left out, as data.max_bad={max_bad} allows"] += left_out
    else:
        for what, advice in wrong:
            found.errors[advice].append(what)
    wanted = {"train": found.catalogue.seen, "val": found.catalogue.classes}
    for part, counted in ((name, one.counts) for name, one in found.parts.items()):
        for index, name in enumerate(found.catalogue.classes):
            if name in wanted[part] and counted.images and not counted.pixels[index]:
                shown = f"{name} (unseen)" if name in found.catalogue.unseen else name
                found.warnings[f"classes that no {part} image shows, so they cannot be {USES[part]}"].append(shown)
        if counted.turned:
            found.warnings[
                f"{part} images that are turned upright as their EXIF orientation says, and label maps that were drawn "
                "on the raw pixels do not fit them"
            ] += counted.turned
    train = found.parts["train"].counts
    if train.without and len(train.without) == train.images:
        what, expected = NOTHING_SEEN
        found.errors[expected].append(what)
    elif train.without:
        found.warnings["train images that show no seen class, so that training has no labels for them"] += train.without
    _warn_of_copies(found)
    for why, paths in dataset.left_out(tuple(found.parts)).items():
        if why != UNLISTED:
            found.warnings[f"files and folders that are not used ({why})"].extend(paths)


def _warn_of_copies(found: Inspection) -> None:
    for places in _copies(found):
        parts = {part for part, _ in places}
        if len(parts) > 1:
            found.warnings["images that are both in train and in val, so the scores are too optimistic"].append(
                " = ".join(f"{part}/{name}" for part, name in places)
            )
        elif len(places) > 1:
            found.warnings[f"images that occur more than once in {places[0][0]}"].append(
                " = ".join(name for _, name in places)
            )


def sampled(names: Sequence[str], number: int) -> list[str]:
    """At most `number` names, evenly spaced."""
    step = max(1, -(-len(names) // number))
    return list(itertools.islice(names, 0, None, step))
