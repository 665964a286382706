"""Measurements of a training: curves, and the time spent in training steps, validations and waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["HELD_OUT", "Curves", "History"]

HELD_OUT = "heldout_miou_seen"  # the score in a curve, beside the loss terms
Curves = list[dict[str, float]]
T = TypeVar("T")


@dataclass
class History:
    """Losses of all processes, and times of the first process. It continues after restarts."""

    # Mean loss terms of each logging interval with its last iteration, and the score if that one was validated.
    curves: Curves = field(default_factory=list)
    pending: list[dict[str, float]] = field(default_factory=list)  # loss terms of the iterations since then
    waiting: float = 0.0  # seconds spent waiting for batches
    working: float = 0.0  # seconds spent in training steps
    validating: float = 0.0  # seconds spent in validations

    def measured(self, batches: Iterable[T], step: Callable[[T], dict[str, float]]) -> Iterator[dict[str, float]]:
        """Call `step` with each batch and yield its loss terms. The time between the steps is not measured."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                return
            got = time.perf_counter()
            self.pending.append(step(batch))
            self.waiting, self.working = self.waiting + got - start, self.working + time.perf_counter() - got
            yield self.pending[-1]

    def close_interval(self, iteration: int) -> None:
        means = {name: sum(terms[name] for terms in self.pending) / len(self.pending) for name in self.pending[0]}
        self.curves.append({"iteration": iteration, **means})
        self.pending = []

    def summary(self, images: int) -> dict[str, float]:
        """Throughput over the whole training.

        Args:
            images: number of images in that time, over all processes.
        """
        seconds = self.waiting + self.working
        return {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "data_wait": self.waiting / self.working,  # relative to the time of the steps
        }
