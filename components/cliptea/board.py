"""What the steps of a pipeline run are doing, in the store: one small object for each step and variant.

On a cluster nobody sees the processes of a run. Each step therefore writes what it does, now and then, below
`runs/JOB/`; `cliptea submit --wait` shows it, and training looks there for a sign of the step that follows it.
A run on one machine has its events file instead (`cliptea.progress`) and no board.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from cliptea import progress
from cliptea.errors import ClipteaError
from cliptea.storage import Store

__all__ = ["BEAT_SECONDS", "StepStatus", "posting", "read_board", "status_key"]

FOLDER = "runs"
BEAT_SECONDS = 20.0


class StepStatus(BaseModel):
    """What one step is doing.

    Attributes:
        step, label: its name, and the variant's label or nothing.
        state: stays "running" when the step was killed; `beat` then no longer changes.
        beat: how often this was written.
        started, updated: by the writer's clock, in seconds since 1970.
        bar: the last event of its progress bar, as `cliptea.progress` tells it.
        text: the error, when it has failed.
        published: small facts, such as the address of the report.
    """

    step: str
    label: str = ""
    state: Literal["running", "done", "failed"] = "running"
    reused: bool = False
    beat: int = 0
    started: float
    updated: float
    bar: dict[str, Any] | None = None
    text: str = ""
    published: dict[str, str] = {}

    @property
    def who(self) -> str:
        """Step, variant and error in one line."""
        return f"{self.step} {self.label}".strip() + f": {self.text}"


def status_key(job_id: str, step: str, label: str = "", writer: str = "step") -> str:
    """Where a step's status lies in the store.

    Args:
        job_id: the pipeline job.
        step, label: as of `StepStatus`.
        writer: "step", or another process that works for it, such as "training".
    """
    digest = hashlib.sha256(label.encode()).hexdigest()[:10]
    return f"{FOLDER}/{job_id}/{step}-{digest}/{writer}.json"


def read_board(store: Store, job_id: str) -> list[StepStatus]:
    """The status of every step of a run that has begun, in the order in which they did; bars of helpers included."""
    found: dict[tuple[str, str], StepStatus] = {}
    bars: dict[tuple[str, str], StepStatus] = {}
    for entry in store.entries(f"{FOLDER}/{job_id}"):
        try:
            status = StepStatus.model_validate_json(store.get(entry.key))
        except (ClipteaError, ValidationError):  # written anew or by another version: shown at the next look
            continue
        place = (status.step, status.label)
        (found if entry.key.endswith("/step.json") else bars)[place] = status
    for place, helper in bars.items():
        if place in found and helper.bar is not None:
            found[place].bar = helper.bar
    return sorted(found.values(), key=lambda status: status.started)


@contextmanager
def posting(store: Store, job_id: str, step: str, label: str = "", writer: str = "step") -> Iterator[None]:
    """Write what this process tells by `cliptea.progress` to the board, inside the block and at its end.

    A store that is away costs nothing but the news.
    """
    post = _Post(store, status_key(job_id, step, label, writer), step, label)
    thread = threading.Thread(target=post.beat, name="cliptea-board", daemon=True)
    with progress.listening(post.hear):
        thread.start()
        try:
            yield
        finally:
            post.stop.set()
            thread.join(BEAT_SECONDS)


class _Post:
    """One status, written by a thread of its own."""

    def __init__(self, store: Store, key: str, step: str, label: str) -> None:
        now = time.time()
        self._store, self._key = store, key
        self._status = StepStatus(step=step, label=label, started=now, updated=now)
        self.stop = threading.Event()

    def hear(self, event: dict[str, Any]) -> None:
        status, kind = self._status, event["event"]
        if kind == "bar":
            status.bar = None if event["last"] else event
        elif kind == "published":
            status.published = status.published | event["values"]
        elif kind == "done":
            status.state, status.reused, status.bar = "done", event["reused"], None
        elif kind == "failed" and not event["stopped"]:  # what a signal has stopped has not failed
            status.state, status.text, status.bar = "failed", event["text"], None

    def beat(self) -> None:
        while True:
            ended = self.stop.wait(BEAT_SECONDS if self._status.beat else 0.0)
            self._status.beat += 1
            self._status.updated = time.time()
            with suppress(Exception):  # whatever is wrong with the store, news are not worth a step
                self._store.put(self._key, self._status.model_dump_json().encode())
            if ended:
                return
