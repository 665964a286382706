"""Whether anybody still follows this training: a step in another pod, which writes to the board while it is there.

A step that was cancelled, has crashed or was lost with its machine deletes no TrainJob. So training looks for itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel

from cliptea import progress
from cliptea.board import BEAT_SECONDS
from cliptea.errors import ClipteaError
from cliptea.storage import Store, open_store

__all__ = ["Follower", "Watch", "watching"]


class Follower(BaseModel):
    """The object of the store that a step writes anew while it follows, and the seconds that it may stand still."""

    key: str
    seconds: float


class Watch:
    """How long the follower has been silent, by the clock of this process alone: those of two machines differ."""

    def __init__(self, store: Store, follower: Follower) -> None:
        self._store, self._follower = store, follower
        self._seen: bytes | None = None
        self._looked, self._silent = time.monotonic(), 0.0

    def abandoned(self) -> bool:
        """Look whether the object has changed; says whether it has been the same for too long.

        An object that is not there counts as one that stands still. While the store cannot be read, no time counts.
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
    """Watch a follower inside the block, if there is one; the event is set when it has been silent for too long."""
    abandoned, over = threading.Event(), threading.Event()
    if follower is not None:
        watch = Watch(open_store(patience=BEAT_SECONDS), follower)
        work = (watch, follower, abandoned, over)
        threading.Thread(target=_watch, args=work, name="cliptea-follower", daemon=True).start()
    try:
        yield abandoned
    finally:
        over.set()


def _watch(watch: Watch, follower: Follower, abandoned: threading.Event, over: threading.Event) -> None:
    while not over.wait(min(BEAT_SECONDS, follower.seconds / 4)):
        if watch.abandoned():
            progress.warn(
                f"no step has followed this training for {progress.clock(follower.seconds)}; saving a checkpoint and "
                "stopping; run again to resume"
            )
            abandoned.set()
            return
