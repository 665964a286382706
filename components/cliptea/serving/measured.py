"""How an exported network compares with torch: equal pixels on images, and time per image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cliptea.cores import processor
from cliptea.serving.parity import Run, compare

__all__ = ["Measured", "measure"]

RUNS = 5  # of which the median counts, after one that does not count


class Measured(NamedTuple):
    """The mask agreement of an exported network with torch, and the time that both take."""

    inputs: str  # what it was measured on
    equal: float  # share of pixels with the same class
    difference: float  # of outputs, relative to the largest if that is above 1; 0 for classes
    milliseconds: float  # for one input
    torch_milliseconds: float
    size: tuple[int, int]  # height and width of that input
    threads: int
    processor: str

    @property
    def facts(self) -> dict[str, Any]:
        return self._asdict()


def measure(run: Run, name: str, network: nn.Module, inputs: Sequence[Sequence[np.ndarray]], told: str) -> Measured:
    """Compare on every input, and take the time of the first.

    Args:
        run: the exported network.
        name: what runs it, for errors.
        inputs: images (1, 3, H, W) and perhaps embeddings, for each test.
        told: what the inputs are.

    Raises:
        NotFinite: a logit is NaN or infinite.
        NotExported: the exported network fails.
    """
    found = [compare(run, name, network, one) for one in inputs]
    pixels = [one[0].shape[2] * one[0].shape[3] for one in inputs]
    first = inputs[0]
    tensors = [torch.from_numpy(array) for array in first]
    with torch.inference_mode():
        torch_milliseconds = _milliseconds(lambda: network(*tensors))
    return Measured(
        told,
        sum(one.equal * area for one, area in zip(found, pixels, strict=True)) / sum(pixels),
        max(one.difference for one in found),
        _milliseconds(lambda: run(*first)),
        torch_milliseconds,
        (first[0].shape[2], first[0].shape[3]),
        torch.get_num_threads(),
        processor(),
    )


def _milliseconds(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) * 1000, 3)
