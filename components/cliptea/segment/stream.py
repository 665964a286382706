"""Many images through a student: read ahead, in batches of one size, by several threads. The order is kept.

On a CPU, each thread takes whole images with one core, because two images side by side are faster than two cores on one
image. On a GPU, threads only keep it busy: while one waits for its batch, others work on the logits of theirs. Several
GPUs have a copy of the student each, and take the next batch as soon as they are free.

Shape legend: H, W image; N classes; D width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cliptea.config import EvaluationConfig
from cliptea.data.ahead import ahead
from cliptea.errors import named
from cliptea.models.own import OwnStudent
from cliptea.models.student import Student
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.inference import image_logits, padded_size

__all__ = ["Loaded", "each_image"]

READERS = (2, 8)  # fewest and most threads that read, each up to two images ahead
BATCH = {"cpu": 1, "cuda": 8}
GPU_WORKERS = 4  # for each GPU
WINDOW = 4  # batches that are read before they are divided by size
MOST_PIXELS = 50_000_000  # maximum number of pixels of a window, unless a single image is larger
LARGE = 8_000_000  # pixels of an image that has the memory of its device to itself

Item = TypeVar("Item")
Result = TypeVar("Result")


class Loaded(NamedTuple, Generic[Item]):
    """An item, its image (H, W, 3) uint8, or None if it has none, and whatever else was read."""

    item: Item
    image: np.ndarray | None
    rest: object = None

    @property
    def pixels(self) -> int:
        return 0 if self.image is None else self.image.size // 3


class _Batch(NamedTuple, Generic[Item]):
    places: list[int]  # positions of its images among all items
    images: list[Loaded[Item]]  # of one size for the network; one without an image is alone


class _Copy(NamedTuple):
    student: Student
    text_ND: Tensor  # on the same device
    alone: threading.Lock  # held for a large image


def each_image(
    student: Student,
    text_ND: Tensor,
    settings: EvaluationConfig,
    items: Sequence[Item],
    read: Callable[[Item], Loaded[Item]],
    work: Callable[[Loaded[Item], ImageLogits | None], Result],
    title: Callable[[Item], str],
    devices: Sequence[torch.device] | None = None,
) -> Iterator[Result]:
    """Yield what `work` makes of each item and its logits, in the order of the items.

    The logits do not depend on the number of devices and threads or the size of batches, apart from rounding on a GPU.

    Args:
        student: in eval mode.
        text_ND: unit-norm text features of every class, on the student's device.
        settings: how logits are computed, with the number of `workers` and the `batch_size`.
        items: such as names of images.
        read: reads the image of an item. It is called in threads.
        work: is called in threads, with None for an item without an image. The logits are on any of the devices.
        title: names an item in errors.
        devices: which share the images, of one type. The first is the student's, and the others get copies of it, but
            only as many as there are images and workers. None: the student's alone.

    Raises:
        NotFinite: a logit is NaN or infinite; the error names the image.
    """
    where, cores = text_ND.device.type, torch.get_num_threads()
    useful = max(1, min(len(items), settings.workers or len(items)))
    copies = _copies(student, text_ND, (devices or [text_ND.device])[:useful])
    usual = cores if where == "cpu" else min(cores, GPU_WORKERS * len(copies))
    workers = (settings.workers or max(usual, len(copies))) if _is_shareable(student) else len(copies)
    threads = max(1, cores // max(1, min(workers, len(items))))
    free: SimpleQueue[_Copy] = SimpleQueue()  # each copy once for every thread that may use it at the same time
    for number in range(workers):
        free.put(copies[number % len(copies)])

    def segment(batch: _Batch[Item]) -> list[tuple[int, Result]]:
        torch.set_num_threads(threads)  # for this thread; new ones would take all cores
        images = [one.image for one in batch.images if one.image is not None]
        if not images:
            return [(batch.places[0], work(batch.images[0], None))]
        found, large = [], max(one.pixels for one in batch.images) > LARGE
        with _taken(free) as copy, copy.alone if large else nullcontext():
            logits = image_logits(copy.student, images, copy.text_ND, settings)
            for place, one in zip(batch.places, batch.images, strict=True):
                with named(title(one.item)):
                    found.append((place, work(one, next(logits))))
        return found

    size = settings.batch_size or BATCH.get(where, 1)
    with _threads(threads):
        loaded = ahead(read, items, min(max(READERS[0], workers), READERS[1]))
        yield from _in_order(ahead(segment, _batches(loaded, size, settings), workers))


def _copies(student: Student, text_ND: Tensor, devices: Sequence[torch.device]) -> list[_Copy]:
    """The student and the text features on each device.

    A network of the user's own stays on the first one, because its copies may share what it keeps between calls.
    """
    if isinstance(student, OwnStudent):
        devices = devices[:1]
    copies = [_Copy(deepcopy(student).to(where), text_ND.to(where), threading.Lock()) for where in devices[1:]]
    return [_Copy(student, text_ND, threading.Lock()), *copies]


@contextmanager
def _taken(free: SimpleQueue[_Copy]) -> Iterator[_Copy]:
    copy = free.get()
    try:
        yield copy
    finally:
        free.put(copy)


def _is_shareable(student: Student) -> bool:
    """Whether several threads may call the network at once.

    A network of the user's own, and encoders of timm that work with hooks, may keep features between calls.
    """
    return not isinstance(student, OwnStudent) and not any(hasattr(module, "hooks") for module in student.modules())


def _batches(loaded: Iterable[Loaded[Item]], size: int, settings: EvaluationConfig) -> Iterator[_Batch[Item]]:
    """Batches of at most `size` images. Those of a window are divided by their size for the network."""
    window: list[tuple[int, Loaded[Item]]] = []
    pixels = 0
    for place, one in enumerate(loaded):
        window.append((place, one))
        pixels += one.pixels
        if len(window) == (WINDOW * size if size > 1 else 1) or pixels > MOST_PIXELS:
            yield from _divided(window, size, settings)
            window, pixels = [], 0
    yield from _divided(window, size, settings)


def _divided(
    window: Sequence[tuple[int, Loaded[Item]]], size: int, settings: EvaluationConfig
) -> Iterator[_Batch[Item]]:
    alike: dict[object, list[tuple[int, Loaded[Item]]]] = {}
    for place, one in window:
        key = place if one.image is None else padded_size((one.image.shape[0], one.image.shape[1]), settings)
        alike.setdefault(key, []).append((place, one))
    for found in alike.values():
        for first in range(0, len(found), size):
            places, images = zip(*found[first : first + size], strict=True)
            yield _Batch(list(places), list(images))


def _in_order(parts: Iterable[list[tuple[int, Result]]]) -> Iterator[Result]:
    """The results by their positions, which begin with 0."""
    waiting: dict[int, Result] = {}
    following = 0
    for part in parts:
        waiting.update(part)
        while following in waiting:
            yield waiting.pop(following)
            following += 1


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Let each thread use this many cores inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
