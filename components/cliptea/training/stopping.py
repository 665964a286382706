"""SIGTERM: what a cluster sends before it takes a machine away. Training saves and says: start me again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["RESTART", "Asked", "Stopped", "sigterm"]

RESTART = os.EX_TEMPFAIL  # 75: exit code of a process that stopped on request; started again, it goes on


class Stopped(SystemExit):
    """Training ended before its end, on request. Uncaught, it ends the process with the code `RESTART`."""

    def __init__(self, iteration: int | None) -> None:
        super().__init__(RESTART)
        self.iteration = iteration

    def __str__(self) -> str:
        saved = "" if self.iteration is None else f"; iteration {self.iteration} is saved"
        return f"training was asked to stop by SIGTERM{saved}: start it again to go on"


class Asked:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.to_stop = False


@contextmanager
def sigterm() -> Iterator[Asked]:
    """Note SIGTERM instead of dying from it. In a thread other than the main one signals are left as they are."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        asked.to_stop = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
