"""How a row is measured: both sides in one run, taking turns; what counts is the median of the rounds' ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from cliptea.cores import processor

__all__ = ["Bench", "Row", "environment", "interleaved", "machine", "speed"]


@dataclass
class Bench:
    """What every row is given.

    Attributes:
        folder: scratch space, removed at the end.
        quick: whether the row shall only show that it runs; its figures mean nothing then.
        long: whether it may take tens of minutes.
    """

    folder: Path
    quick: bool = False
    long: bool = False

    @property
    def repeats(self) -> int:
        return 1 if self.quick else 5


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        first: one side, in words with its median.
        second: the other side.
        ratio: of the two, as the goal takes it.
        goal: smallest ratio, or the largest where `at_most`; None for a row that is only reported.
        at_most: see there.
        rates: images per second that `cliptea plan` can take, by "teacher" or backbone.
        details: further figures.
        note: what the page says about the row below the table. A missed goal is explained there.
    """

    name: str
    first: str
    second: str
    ratio: float
    goal: float | None = None
    at_most: bool = False
    rates: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    @property
    def goal_text(self) -> str:
        return "reported" if self.goal is None else f"{'at most' if self.at_most else 'at least'} {self.goal:g}"


def interleaved(repeats: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each work in each round; every other round goes backwards, so that none always comes first."""
    seconds: list[list[float]] = [[] for _ in works]
    for number in range(repeats):
        order = range(len(works)) if number % 2 == 0 else reversed(range(len(works)))
        for place in order:
            start = time.perf_counter()
            works[place]()
            seconds[place].append(time.perf_counter() - start)
    return seconds


def speed(first: list[float], second: list[float]) -> float:
    """How many times as fast the first is: the median over rounds."""
    return median(b / a for a, b in zip(first, second, strict=True))


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that hold inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import psutil
    import torch

    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
