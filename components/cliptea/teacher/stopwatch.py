"""Measures how long CLIP works while other stages work beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cliptea.teacher.outputs import ClipTime

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up the time of calls on a device. Only the time within `running` counts.

    A GPU still works after the call has returned, so its own events are compared, and nobody waits for it meanwhile.
    """

    def __init__(self, device: torch.device, shared: bool = False) -> None:
        """
        Args:
            shared: whether other processes work on the same GPU, whose work then counts as well.
        """
        self._device, self._shared = device, shared
        self._views = 0
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, views: int) -> Iterator[None]:
        """Measure what encodes that many views."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            before = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - before
        self._views += views

    def read(self) -> ClipTime:
        """The time until now; waits for a GPU to finish. On a CPU, the seconds of all threads that torch may use."""
        if not self._views:
            return ClipTime()
        if self._device.type != "cuda":
            return ClipTime(views=self._views, seconds=self._seconds * torch.get_num_threads(), devices=["CPU core"])
        for _, end in self._events:
            end.synchronize()
        seconds = sum(start.elapsed_time(end) for start, end in self._events) / 1000
        return ClipTime(views=self._views, seconds=seconds, devices=[self._gpu])

    @property
    def _gpu(self) -> str:
        return torch.cuda.get_device_name(self._device) + " that several processes share" * self._shared
