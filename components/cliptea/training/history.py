"""What was measured while a student learned: loss curves, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

__all__ = ["Curves", "History"]

Curves = list[dict[str, float]]
T = TypeVar("T")


@dataclass
class History:
    """Of all processes for the losses, of the first one for the times. It goes on over restarts."""

    curves: Curves = field(default_factory=list)  # mean loss terms of each logging interval, with its last iteration
    pending: list[dict[str, float]] = field(default_factory=list)  # of the iterations since then
    waiting: float = 0.0  # seconds without a batch to work on
    working: float = 0.0  # seconds of training steps

    def measured(self, batches: Iterable[T], step: Callable[[T], dict[str, float]]) -> Iterator[dict[str, float]]:
        """Take a step with each batch; yields its loss terms. What is done between the steps is not measured."""
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

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; `History(**state)` goes on from them."""
        return asdict(self)

    def summary(self, images: int) -> dict[str, float]:
        """Throughput over the whole training.

        Args:
            images: shown in that time, by all processes.
        """
        seconds = self.waiting + self.working
        return {
            "seconds": seconds,
            "images_per_second": images / seconds,
            "data_wait": self.waiting / self.working,  # as a share of the time of the steps
        }
