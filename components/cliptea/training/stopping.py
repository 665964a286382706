"""The ways in which training stops early and can resume later: on request, or after processes were lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cliptea.errors import ClipteaError
from cliptea.exit_codes import ExitCode

__all__ = ["Deserted", "Killed", "Stopped", "sigterm"]


class Stopped(SystemExit):
    """Training stopped early on request. If it is not caught, the process exits with `ExitCode.RESTART`."""

    def __init__(self, iteration: int | None) -> None:
        super().__init__(ExitCode.RESTART)
        self.iteration = iteration

    def __str__(self) -> str:
        saved = "" if self.iteration is None else f"; iteration {self.iteration} is saved"
        return f"training was stopped on request{saved}; run again to resume"


class Deserted(ClipteaError):
    """The other processes of this training are gone. `cliptea.steps.train_process` exits with
    `ExitCode.DESERTED`."""

    temporary = True

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the other training processes are gone ({why})",
            todo="look for the first process that failed, or whose machine was lost; run again to resume from the "
            "last checkpoint",
        )
        self.why = why


class Killed(ClipteaError):
    """A signal has killed a process of this training: the system's, or torchrun's after another one has failed."""


@contextmanager
def sigterm() -> Iterator[list[int]]:
    """Collect SIGTERM in a list instead of exiting. Outside the main thread, signals are not changed."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
