"""The progress of a run on a cluster, as the same events that a local run shows.

The steps write their progress and variants to the store. If the store cannot be read from this machine, only the names
and states of the tasks in Kubeflow Pipelines are available.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlparse

from cliptea.board import BEAT_SECONDS, BoardReader, StepStatus
from cliptea.errors import StorageError
from cliptea.storage import is_remote, open_store
from cliptea_pipeline.events import Event
from cliptea_pipeline.looks import OPEN, Look, Task

__all__ = ["News"]

PATIENCE = 5.0  # seconds that the store may be down each time
SILENT = 3 * BEAT_SECONDS
LOST = "it stopped reporting, so it was probably killed"
WANTED = "to see them, set CLIPTEA_STORE, CLIPTEA_S3_ENDPOINT and the AWS_ variables on this machine"


class News:
    """The events of a run, either from the store or from Pipelines, but never from both.

    Args:
        store: URI of the store that the steps write to, or "" if it is not known.
        say: called with a line if less can be shown.
    """

    def __init__(self, run_id: str, store: str, say: Callable[[str], None]) -> None:
        self._say = say
        self._boards, self._tasks = _Boards(), _Tasks()
        self._from_store = False  # whether a step has been seen there
        self._reader: BoardReader | None = None  # None: the store cannot be read from here
        if is_remote(store) or os.path.isdir(unquote(urlparse(store).path)):
            self._reader = BoardReader(open_store(store, PATIENCE), run_id)
        else:
            self._give_up("the store is not known on this machine")

    def read(self, look: Look) -> list[Event]:
        """The events since the last call."""
        statuses = self._read_store()
        made = any(task.step and task.state == "SUCCEEDED" for task in look.tasks)
        if statuses:
            self._from_store = True
        elif not self._from_store and self._reader is not None and made:
            self._give_up("the steps do not report to the store that is set here")
        if self._reader is not None:
            return list(self._boards.events(statuses, look.tasks))
        return list(self._tasks.events(look.tasks))

    def at_work(self, look: Look) -> bool:
        """Whether a step is running, and not only waiting."""
        if self._from_store:
            return "running" in self._boards.shown.values()
        return any(task.name.startswith("executor(") and task.state == "RUNNING" for task in look.tasks)

    @property
    def errors(self) -> dict[tuple[str, str], str]:
        """The error of each step and variant that has failed finally, according to the store."""
        return self._boards.errors

    def _read_store(self) -> list[StepStatus] | None:
        """The statuses that the steps have written, or None if they could not be read this time."""
        if self._reader is None:
            return None
        try:
            return self._reader.read()
        except StorageError as error:
            if not self._from_store:
                self._give_up(f"the store cannot be read from this machine: {error.what}")
            return None  # the last statuses stay visible

    def _give_up(self, why: str) -> None:
        self._reader = None
        self._say(f"note: variants and progress are not shown ({why}); {WANTED}")


class _Boards:
    """The statuses that the steps write, and the last state shown of each."""

    def __init__(self) -> None:
        self.shown: dict[tuple[str, str], str] = {}  # running, done, failed or lost
        self.errors: dict[tuple[str, str], str] = {}
        self._last: dict[tuple[str, str], StepStatus] = {}
        self._heard: dict[tuple[str, str], float] = {}  # when its beat changed

    def events(self, statuses: list[StepStatus] | None, tasks: list[Task]) -> Iterator[Event]:
        if statuses is None:
            return
        for status in statuses:
            key = (status.step, status.label)
            last = self._last.get(key)
            self._last[key] = status
            if last is not None and (last.beat, last.started) == (status.beat, status.started):
                continue
            self._heard[key] = time.monotonic()
            yield from self._changed(key, status, last)
        yield from self._lost(tasks)

    def _changed(self, key: tuple[str, str], status: StepStatus, last: StepStatus | None) -> Iterator[Event]:
        again = last is not None and last.started != status.started
        if again or self.shown.get(key) in (None, "lost"):
            self.shown[key] = "running"
            self.errors.pop(key, None)
            yield _event("start", *key)
        if status.published and (last is None or last.published != status.published):
            yield _event("published", *key, values=status.published)
        if status.state == "running":
            if status.bar is not None:
                yield status.bar.model_dump() | {"step": status.step, "label": status.label}
            return
        if self.shown[key] != "running":
            return
        self.shown[key] = status.state
        seconds = status.updated - status.started
        if status.state == "done":
            yield _event("done", *key, seconds=seconds, reused=status.reused)
        else:
            self.errors[key] = status.text
            yield _failed(*key, seconds, status.text)

    def _lost(self, tasks: list[Task]) -> Iterator[Event]:
        """Steps that no longer report, if Pipelines has fewer active tasks than there are such steps.

        If more tasks have succeeded than are shown as done, a silent step may be one of them, and none counts as lost.
        """
        now = time.monotonic()
        left = Counter(task.step for task in tasks if task.state in OPEN)
        left.subtract(key[0] for key, shown in self.shown.items() if shown == "running")
        succeeded = Counter(task.step for task in tasks if task.state == "SUCCEEDED")
        succeeded.subtract(key[0] for key, shown in self.shown.items() if shown == "done")
        for key in sorted(self._heard, key=self._heard.__getitem__):
            silent = self.shown[key] == "running" and now - self._heard[key] >= SILENT
            if silent and left[key[0]] < 0 and succeeded[key[0]] <= 0:
                left[key[0]] += 1
                self.shown[key] = "lost"
                yield _failed(*key, now - self._heard[key], LOST)


class _Tasks:
    """The tasks of Pipelines that are steps, and the last state shown of each. Variants have numbers, not names."""

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def events(self, tasks: list[Task]) -> Iterator[Event]:
        numbers = Counter[str]()
        for task in tasks:
            if not task.step or task.state in ("", "SKIPPED"):
                continue
            numbers[task.step] += 1
            label = f"no. {numbers[task.step]}" if numbers[task.step] > 1 else ""
            key = (task.step, self._labels.setdefault(task.id, label))
            if task.id not in self._shown:
                self._shown[task.id] = "RUNNING"
                yield _event("start", *key)
            if task.state in OPEN or self._shown[task.id] == task.state:
                continue
            self._shown[task.id] = task.state
            if task.state == "SUCCEEDED":
                yield _event("done", *key, seconds=task.seconds, reused=False)
            else:
                yield _failed(*key, task.seconds, "")


def _event(kind: str, step: str, label: str, **facts: Any) -> Event:
    return {"event": kind, "step": step, "label": label, "pid": 0, **facts}


def _failed(step: str, label: str, seconds: float, text: str) -> Event:
    return _event("failed", step, label, seconds=seconds, text=text, trace="", setting=False)
