"""Checks whether a step in another pod still follows this training. While the step does, training writes to the board.

A step that crashed, or was lost together with its machine, does not delete its TrainJob. So training checks by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from cliptea import progress, watchdog
from cliptea.board import BEAT_SECONDS
from cliptea.errors import ClipteaError
from cliptea.storage import Store, open_store

__all__ = ["Follower", "Watch", "watching"]


class Follower(BaseModel):
    """The object in the store that a following step updates, and after how many seconds without an update to stop."""

    key: str
    seconds: float


class Watch:
    """Measures how long the follower has been silent. It only uses the clock of this process, as clocks may differ."""

    def __init__(self, store: Store, follower: Follower) -> None:
        self._store, self._follower = store, follower
        self._seen: bytes | None = None
        self._looked, self._silent = time.monotonic(), 0.0

    def abandoned(self) -> bool:
        """Check the object for changes. Returns whether it has not changed for too long.

        A missing object counts as unchanged. Time during which the store cannot be read does not count.
        """
        silent = self._silent
        try:
            there = self._store.entry(self._follower.key) is not None
            now = self._store.get(self._follower.key) if there else None
        except ClipteaError:
            pass
        else:
            silent = 0.0 if now != self._seen else silent + time.monotonic() - self._looked
            self._seen = now
        self._silent, self._looked = silent, time.monotonic()
        return silent > self._follower.seconds


@contextmanager
def watching(follower: Follower | None) -> Iterator[threading.Event]:
    """Watch the follower, if one is given, inside the block. The event is set when it has been silent for too long."""
    abandoned, over = threading.Event(), threading.Event()

    def look(watch: Watch, seconds: float) -> None:
        while not over.wait(min(BEAT_SECONDS, seconds / 4)):
            if watch.abandoned():
                progress.warn(
                    f"no step has followed this training for {progress.clock(seconds)}; saving a checkpoint and "
                    "stopping; run again to resume"
                )
                abandoned.set()
                return

    if follower is not None:
        work = (Watch(open_store(patience=BEAT_SECONDS), follower), follower.seconds)
        watchdog.aside("cliptea-follower", look, *work)
    try:
        yield abandoned
    finally:
        over.set()
