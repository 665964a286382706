"""How long a GPU would wait for images in evaluation. The GPU is simulated: each batch keeps it busy for a fixed time.

Images are read, decoded and brought to size as in evaluation. The rest, which a GPU does, is replaced by a sleep.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import Bench, Row
from benchmarks.rows.evaluation import read_pair, write_images
from benchmarks.world import CLASSES
from cliptea.config import EvaluationConfig
from cliptea.messages import three_digits
from cliptea.models.student import Student
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.stream import BATCH, GPU_WORKERS, Loaded, each_image

SECONDS = 0.02  # of the GPU for an image
NOTE = (
    "Waiting for images: a simulated GPU takes 20 ms for an image. The share of time is taken from the start of the "
    "first batch to the end of the last one. A faster GPU or more GPUs need more cores: the second column says how "
    "many images a second the processor can read, decode and normalise, and how long one core works on an image."
)


class Simulated(Student):
    """Keeps its device busy for `seconds` an image, with one batch at a time. Copies are busy independently.

    Attributes:
        times: start and end of each batch of all copies.
    """

    def __init__(self, seconds: float, times: list[tuple[float, float]]) -> None:
        super().__init__("", 1.0)
        self.seconds, self.times, self._busy = seconds, times, threading.Lock()

    def __deepcopy__(self, memo: object) -> Simulated:
        return Simulated(self.seconds, self.times)

    def logits(self, images_B3HW: Tensor, text_ND: Tensor) -> Tensor:
        with self._busy:
            start = time.perf_counter()
            time.sleep(self.seconds * len(images_B3HW))
            self.times.append((start, time.perf_counter()))
        return images_B3HW.new_zeros(len(images_B3HW), len(text_ND), 1, 1)


class Evaluated(NamedTuple):
    waiting: float  # share of time in which the GPUs wait
    rate: float  # images per second
    core_seconds: float  # of the processor, for each image


def measure(bench: Bench) -> Iterator[Row]:
    """One GPU, two GPUs and the processor alone, all with the threads and the batches that a GPU gets."""
    side, number = (64, 24) if bench.quick else (512, 200)
    folder = bench.folder / "image_wait"
    write_images(folder, side, number)
    kinds: dict[tuple[int, float], list[Evaluated]] = {(1, SECONDS): [], (2, SECONDS): [], (1, 0.0): []}
    for _ in range(bench.repeats):  # the kinds take turns
        for (gpus, seconds), found in kinds.items():
            found.append(_evaluated(folder, side, number, seconds, gpus))
    alone = kinds[1, 0.0]
    for gpus, goal in ((1, 0.02), (2, None)):
        found = kinds[gpus, SECONDS]
        yield Row(
            f"share of time that {gpus} simulated GPU{'s' * (gpus > 1)} wait{'s' * (gpus == 1)} for images of "
            f"{side}x{side} in evaluation",
            f"with {1000 * SECONDS:g} ms an image: {three_digits(median(one.rate for one in found))} images/s",
            f"with 0 ms: {three_digits(median(one.rate for one in alone))} images/s, "
            f"{three_digits(1000 * median(one.core_seconds for one in alone))} ms of a core for each",
            median(one.waiting for one in found),
            goal,
            at_most=True,
            note=NOTE,
        )


def _evaluated(folder: Path, side: int, number: int, seconds: float, gpus: int) -> Evaluated:
    times: list[tuple[float, float]] = []
    settings = EvaluationConfig(scale=(4 * side, side), batch_size=BATCH["cuda"], workers=GPU_WORKERS * gpus)
    names = [f"{place:03d}" for place in range(number)]
    start, used = time.perf_counter(), time.process_time()
    for _ in each_image(
        Simulated(seconds, times),
        torch.eye(CLASSES),
        settings,
        names,
        partial(_read, folder),
        _discard,
        str,
        [torch.device("cpu")] * gpus,
    ):
        pass
    rate, core_seconds = number / (time.perf_counter() - start), (time.process_time() - used) / number
    span = max(end for _, end in times) - min(begin for begin, _ in times)
    return Evaluated(1 - sum(end - begin for begin, end in times) / (gpus * span), rate, core_seconds)


def _read(folder: Path, name: str) -> Loaded[str]:
    return Loaded(name, *read_pair(folder, name))


def _discard(loaded: Loaded[str], logits: ImageLogits | None) -> None:
    del loaded, logits
