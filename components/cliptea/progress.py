"""Reports the progress of a step, as events in a file on one machine, or as log lines on a cluster.

If the environment variable CLIPTEA_EVENTS is set to a file, every event is appended to it as one line of JSON, and
`cliptea run` shows progress bars. Without it, events are printed to stderr less often, as text or as JSON
(`cliptea.log_lines`).
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cliptea import env, watchdog
from cliptea.errors import ClipteaError, ConfigError, described
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import Level, Who, as_json, json_line, print_line
from cliptea.messages import plain, redacted, three_digits

__all__ = [
    "TRAINING", "Bar", "bar", "clock", "count", "event_line", "halted", "listening", "note", "publish",
    "reused", "step", "warn", "words",
]  # fmt: skip

TRAINING = "training"  # name of the bar whose progress is that of a TrainJob
EVENT_SECONDS = 0.2  # at most five bar events a second
LOG_SECONDS = 30.0  # a log is kept, and read as a whole
WINDOW_SECONDS = 20.0  # the rate is taken over this

_reused = False
_since = 0.0  # when the current step began
_torn = False  # whether a full disk has cut the last line in the events file
_listeners: list[Callable[[dict[str, Any]], None]] = []


@contextmanager
def listening(hear: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Also call `hear` with every event of this process inside the block."""
    _listeners.append(hear)
    try:
        yield
    finally:
        _listeners.remove(hear)


@contextmanager
def step(name: str, label: str = "", run: str = "") -> Iterator[None]:
    """Mark everything inside as the step `name` (of the variant `label`) of a run, and report how it ended."""
    global _reused, _since
    _reused = False
    outer = env.STEP.get()
    env.STEP.set(json.dumps(Who(name, label, run)))
    start = _since = time.monotonic()
    _tell("start")
    try:
        yield
    except BaseException as error:
        trace = "" if isinstance(error, ClipteaError) else traceback.format_exc()
        _tell(
            "failed",
            seconds=time.monotonic() - start,
            text=described(error),
            trace=trace,
            setting=isinstance(error, ConfigError),
            stopped=not isinstance(error, Exception),  # by a signal, which is no failure of the step
        )
        raise
    else:
        _tell("done", seconds=time.monotonic() - start, reused=_reused)
    finally:
        if outer:
            env.STEP.set(outer)
        else:
            del os.environ[env.STEP.name]


def halted(text: str) -> None:
    """Report that the current step has failed because its work has halted (`cliptea.watchdog`)."""
    seconds = time.monotonic() - _since
    _tell("failed", seconds=seconds, text=text, trace="", setting=False, stopped=False, code=ExitCode.STALLED)


def reused() -> None:
    """Report that the current step reuses an existing output."""
    global _reused
    _reused = True


def note(text: str) -> None:
    """Report useful information in one line, for example about something that was omitted."""
    _tell("note", text=text)


def warn(text: str) -> None:
    """Warn that a result may not be what the user expects."""
    _tell("warn", text=text)


def publish(**values: str) -> None:
    """Pass small facts, such as the address of a report, to the command that started the run.

    They are not redacted, because they are used and not only read. So they must not contain secrets.
    """
    _tell("published", values=values)


@contextmanager
def bar(text: str, total: int | None = None, unit: str = "it", done: int = 0) -> Iterator[Bar]:
    """Show the progress of long work.

    Args:
        text: name of the work, such as `TRAINING`.
        total: total number of units, or None if it is not known.
        unit: name of one unit, such as "image".
        done: units that an earlier run has completed. They count as done, but not for the rate.
    """
    counted = Bar(text, total, unit, done)
    try:
        yield counted
    finally:
        counted.tell(last=True)


class Bar:
    """Counts units and reports them from time to time."""

    def __init__(self, text: str, total: int | None, unit: str, done: int) -> None:
        self.text, self.total, self.unit, self.done = text, total, unit, done
        self.values: dict[str, float] = {}
        self._seen = deque([(time.monotonic(), done)])  # (seconds, units done), the oldest first
        self._interval = EVENT_SECONDS if env.in_local_run() else LOG_SECONDS
        self._next = 0.0
        self.tell()

    def update(self, units: int = 1, **values: float) -> None:
        """Count `units` more; `values`, such as a loss, are shown beside the bar."""
        self.done += units
        self.values.update(values)
        now = time.monotonic()
        if now >= self._next:
            self.tell()

    @property
    def rate(self) -> float:
        """Units per second over the last `WINDOW_SECONDS`."""
        now = time.monotonic()
        while len(self._seen) > 2 and now - self._seen[1][0] > WINDOW_SECONDS:
            self._seen.popleft()
        then, done = self._seen[0]
        return (self.done - done) / max(now - then, 1e-9)

    def tell(self, last: bool = False) -> None:
        now = time.monotonic()
        rate = self.rate
        if now - self._seen[-1][0] >= WINDOW_SECONDS / 40:
            self._seen.append((now, self.done))
        self._next = now + self._interval
        left = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        _tell(
            "bar",
            text=self.text,
            total=self.total,
            unit=self.unit,
            done=self.done,
            rate=rate,
            left=left,
            values={name: float(value) for name, value in self.values.items()},
            last=last,
        )


def clock(seconds: float) -> str:
    """A duration in words: 0.4 s, 42 s, 3 min 07 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def words(event: dict[str, Any]) -> str:
    """An event as one line of text, without its step."""
    kind = event["event"]
    if kind == "start":
        return "started"
    if kind == "done":
        return f"{'reused' if event['reused'] else 'done'} in {clock(event['seconds'])}"
    if kind == "failed":
        return f"failed after {clock(event['seconds'])}: {event['text']}"
    if kind == "warn":
        return f"warning: {event['text']}"
    if kind == "note":
        return event["text"]
    return f"{event['text']} {count(event)}"


def event_line(event: dict[str, Any], who: Who) -> str:
    """The line of an event in a log, in the format that was chosen."""
    text, kind = words(event), event["event"]
    if as_json():
        levels: dict[str, Level] = {"warn": "warning", "failed": "error"}
        facts = {name: value for name, value in event.items() if name not in ("step", "label", "text", "run", "pid")}
        return json_line(levels.get(kind, "info"), event["text"] if kind == "warn" else text, who, **facts)
    return f"{who.name}: {text}" if who.name else text


def count(event: dict[str, Any]) -> str:
    """The numbers of a bar's event: done of total, rate, time left, values."""
    done = f"{event['done']}" if event["total"] is None else f"{event['done']}/{event['total']}"
    unit = event["unit"] if event["unit"] == "it" else f"{event['unit']}s"
    parts = [f"{done} {unit}"]
    if event["rate"] > 0:
        parts.append(f"{three_digits(event['rate'])}/s")
    if event["left"]:
        parts.append(f"{clock(event['left'])} left")
    parts += [f"{name} {three_digits(value)}" for name, value in event["values"].items()]
    return ", ".join(parts)


def _tell(event: str, **facts: Any) -> None:
    watchdog.alive()
    if event != "published":
        facts = {key: _plain(value, key) for key, value in facts.items()}
    who, path = Who.present(), env.EVENTS.get()
    told = {"event": event, "step": who.step, "label": who.label, **facts}
    if event != "published" or path:  # a log has no use for facts
        _write(path, who, told)
    for hear in list(_listeners):
        hear(told)


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        return redacted(value) if key == "trace" else plain(value)
    if isinstance(value, dict):
        return {plain(name): _plain(inner) for name, inner in value.items()}
    return value


def _write(path: str, who: Who, event: dict[str, Any]) -> None:
    """Write a line to the events file, or to the log if there is none."""
    global _torn
    try:
        if path:
            line = json.dumps({**event, "run": who.run, "pid": os.getpid()}).encode() + b"\n"
            line = b"\n" + line if _torn else line
            with open(path, "ab", buffering=0) as file:
                _torn = file.write(line) < len(line)  # one write: lines of several processes never mix
        else:
            print_line(event_line(event, who))
    except OSError:  # a full disk or a closed pipe must not end the work that is being told about
        pass
