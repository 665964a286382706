"""The progress of a local run, read from the events file and kept as one state."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Active", "Event", "RunState", "Tail"]

Event = dict[str, Any]
ALWAYS_RUN = {"resolve", "variants", "promote", "finish"}  # steps that are never reused, and so not counted
OURS = {"event", "step", "label", "pid"}  # keys of every event


class Tail:
    """Reads the events that are added to a file. It passes over lines that a full disk has cut."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def read(self) -> list[Event]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        return [event for line in lines if (event := _parsed(line))]

    def close(self) -> None:
        self._file.close()


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and event.keys() >= OURS else None


@dataclass
class Active:
    """A step that has started but not ended."""

    name: str
    label: str
    pid: int
    since: float = field(default_factory=time.monotonic)
    bar: Event | None = None


@dataclass
class RunState:
    """The state of a local run, or of one that is watched."""

    active: dict[tuple[str, str], Active] = field(default_factory=dict)
    failures: list[Event] = field(default_factory=list)
    published: dict[str, str] = field(default_factory=dict)
    reused: int = 0
    made: int = 0
    run: str = ""  # id of the pipeline job

    def add(self, event: Event) -> None:
        kind, key = event["event"], (event["step"], event["label"])
        self.run = event.get("run") or self.run
        if kind == "start":
            self.active[key] = Active(*key, event["pid"])
        elif kind == "bar" and key in self.active:
            self.active[key].bar = None if event["last"] else event
        elif kind == "published":
            self.published.update(event["values"])
        elif kind == "failed":
            self.active.pop(key, None)
            self.failures.append(event)
        elif kind == "done":
            self.active.pop(key, None)
            if event["step"] not in ALWAYS_RUN:
                self.reused += event["reused"]
                self.made += not event["reused"]

    def suspects(self) -> list[Active]:
        """Active steps whose process no longer exists. Read the events once more before you rely on this."""
        return [step for step in self.active.values() if not psutil.pid_exists(step.pid)]

    @staticmethod
    def silent_end(step: Active) -> Event:
        """The event of a step that was killed and could not write it."""
        return {
            "event": "failed",
            "step": step.name,
            "label": step.label,
            "seconds": time.monotonic() - step.since,
            "text": "its process was killed, perhaps for lack of memory; run the same command again to resume",
            "trace": "",
            "setting": False,
        }
