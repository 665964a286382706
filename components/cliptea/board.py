"""The board: the current status of each step and variant of a pipeline run, as small objects in the store.

On a cluster, the processes of a run are not visible. So each step regularly writes its status below `runs/JOB/`.
`cliptea submit --wait` shows it, and training checks there whether the step that follows it is still active.
A run on one machine has no board and uses an events file instead (`cliptea.progress`).
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from cliptea import progress, watchdog
from cliptea.errors import ServerAway, StorageError
from cliptea.storage import Entry, Store

__all__ = ["BEAT_SECONDS", "BarStatus", "BoardReader", "StepStatus", "posting", "read_board", "status_key"]

FOLDER = "runs"
BEAT_SECONDS = 20.0
LARGEST = 1 << 20  # bytes of a status


Amount = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=1 << 60)]


class BarStatus(BaseModel):
    """The last event of a progress bar, see `cliptea.progress.Bar`."""

    event: Literal["bar"] = "bar"
    text: str
    total: Count | None
    unit: str
    done: Count
    rate: Amount  # units per second
    left: Amount | None  # seconds
    values: dict[str, FiniteFloat]
    last: bool = False


class StepStatus(BaseModel):
    """The status of one step. Times are in seconds since 1970, from the writer's clock."""

    step: str
    label: str = ""  # of the variant
    state: Literal["running", "done", "failed"] = "running"  # stays so if it was killed, but `beat` no longer changes
    reused: bool = False
    beat: Count = 0  # how many times the status was written
    started: Amount
    updated: Amount
    bar: BarStatus | None = None
    text: str = ""  # the error if the step failed
    published: dict[str, str] = {}  # small facts, such as the address of the report

    @property
    def who(self) -> str:
        """Step, variant and error in one line."""
        return f"{self.step} {self.label}".strip() + f": {self.text}"


def status_key(job_id: str, step: str, label: str = "", writer: str = "step") -> str:
    """The key of a step's status in the store.

    Args:
        step, label: as in `StepStatus`.
        writer: "step", or another process that works for the step, such as "training".
    """
    digest = hashlib.sha256(label.encode()).hexdigest()[:10]
    return f"{FOLDER}/{job_id}/{step}-{digest}/{writer}.json"


def read_board(store: Store, job_id: str) -> list[StepStatus]:
    """Read the board once; see `BoardReader.read`."""
    return BoardReader(store, job_id).read()


class BoardReader:
    """Reads the board of a run repeatedly. Each read only fetches objects that have changed."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store, self._folder = store, f"{FOLDER}/{job_id}"
        self._known: dict[Entry, StepStatus | None] = {}  # None: written by another version of cliptea

    def read(self) -> list[StepStatus]:
        """The status of every started step, in the order of their start, with the progress bars of helper processes.

        Raises:
            StorageError: the store is not available, or cannot be listed.
        """
        known: dict[Entry, StepStatus | None] = {}
        for entry in self._store.entries(self._folder):
            if entry.size > LARGEST:
                continue
            try:
                known[entry] = self._known[entry] if entry in self._known else self._fetch(entry.key)
            except ServerAway:
                raise
            except StorageError:  # it is being rewritten and will be read next time
                continue
        self._known = known
        told = [(entry.key.endswith("/step.json"), status) for entry, status in known.items() if status is not None]
        bars = {(status.step, status.label): status.bar for own, status in told if not own and status.bar is not None}
        found = [
            status.model_copy(update={"bar": bars.get((status.step, status.label), status.bar)})
            for own, status in told
            if own
        ]
        return sorted(found, key=lambda status: status.started)

    def _fetch(self, key: str) -> StepStatus | None:
        try:
            return StepStatus.model_validate_json(self._store.get(key))
        except ValidationError:
            return None


@contextmanager
def posting(store: Store, job_id: str, step: str, label: str = "", writer: str = "step") -> Iterator[None]:
    """Write the progress of this process (`cliptea.progress`) to the board, during the block and at its end.

    If the store is not available, updates are dropped.
    """
    post = _Post(store, status_key(job_id, step, label, writer), step, label)
    with progress.listening(post.hear):
        thread = watchdog.aside("cliptea-board", post.beat)
        try:
            yield
        finally:
            post.stop.set()
            thread.join(BEAT_SECONDS)


def _bar(event: dict[str, Any]) -> BarStatus | None:
    """The bar of an event, without values that are not finite. None if its numbers are absurd."""
    values = {name: value for name, value in event["values"].items() if math.isfinite(value)}
    try:
        return BarStatus.model_validate({**event, "values": values})
    except ValidationError:
        return None


class _Post:
    """A status that a separate thread writes."""

    def __init__(self, store: Store, key: str, step: str, label: str) -> None:
        now = time.time()
        self._store, self._key = store, key
        self._status = StepStatus(step=step, label=label, started=now, updated=now)
        self.stop = threading.Event()

    def hear(self, event: dict[str, Any]) -> None:
        status, kind = self._status, event["event"]
        if kind == "bar":
            status.bar = None if event["last"] else _bar(event)
        elif kind == "published":
            status.published = status.published | event["values"]
        elif kind == "done":
            status.state, status.reused, status.bar = "done", event["reused"], None
        elif kind == "failed" and not event["stopped"]:  # a step that a signal stopped has not failed
            status.state, status.text, status.bar = "failed", event["text"], None

    def beat(self) -> None:
        while True:
            ended = self.stop.wait(BEAT_SECONDS if self._status.beat else 0.0)
            self._status.beat += 1
            self._status.updated = time.time()
            with suppress(Exception):  # an error of the store must not stop the step
                self._store.put(self._key, self._status.model_dump_json().encode())
            if ended:
                return
