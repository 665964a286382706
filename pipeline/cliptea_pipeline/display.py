"""The display of a local run, with one line per step, live bars in a terminal, and plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from cliptea.log_lines import Who, as_json, tell
from cliptea.messages import plain
from cliptea.progress import clock, count, event_line, words
from cliptea_pipeline.events import Active, Event, RunState

__all__ = ["Lines", "Plain", "Terminal", "cell", "new_console", "new_view", "results_table"]

HIDDEN = {"variants", "finish"}  # bookkeeping steps that are not shown
WIDE = 110  # columns of a terminal with room for long labels and bars
REFRESH_SECONDS = 0.2
PLAIN_SECONDS = 15.0
SCORES = ("pAcc", "miou_seen", "miou_unseen", "hiou")


def new_console(highlight: bool = True) -> Console:
    """A console for the output of a command, with 120 columns if this is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=highlight)


def new_view(console: Console, run_state: RunState) -> Plain | Terminal:
    """The display of a run for a terminal, or for a log as text or JSON."""
    if as_json():
        return Lines(console, run_state)
    return (Terminal if console.is_terminal else Plain)(console, run_state)


class Plain:
    """Plain lines for a log: the start and end of every step, and its progress from time to time."""

    def __init__(self, console: Console, run_state: RunState) -> None:
        self.console, self.run_state = console, run_state
        self._told: dict[tuple[str, str], float] = {}

    def show(self, event: Event) -> None:
        self.run_state.add(event)
        kind, key = event["event"], (event["step"], event["label"])
        if kind == "published" or (event["step"] in HIDDEN and kind in ("start", "done")):
            return
        if kind == "bar":
            last = self._told.setdefault(key, time.monotonic())
            if time.monotonic() - last < PLAIN_SECONDS:
                return
        self._told[key] = time.monotonic()
        self._print(event, Who(*key))

    def say(self, text: str) -> None:
        """A line that is about the run as a whole."""
        self.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    def _print(self, event: Event, who: Who) -> None:
        text = f"failed after {clock(event['seconds'])}" if event["event"] == "failed" else words(event)
        self.say(f"{who.name}: {text}")

    def tick(self) -> None:
        """Nothing changes between events."""

    def close(self) -> None:
        """There is nothing to close."""


class Lines(Plain):
    """The same lines as JSON. They are not printed by rich, which would replace the names of emojis."""

    def say(self, text: str) -> None:
        tell("info", text, Who(run=self.run_state.run), self.console.file)

    def _print(self, event: Event, who: Who) -> None:
        print(event_line(event, who._replace(run=self.run_state.run)), file=self.console.file, flush=True)


class Terminal:
    """A line for every step that has ended, and below them live lines for the active steps."""

    def __init__(self, console: Console, run_state: RunState) -> None:
        self.console, self.run_state = console, run_state
        self._next = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, event: Event) -> None:
        self.run_state.add(event)
        kind, name = event["event"], event["step"]
        if kind in ("done", "failed") and not (kind == "done" and name in HIDDEN):
            self.console.print(self._ended(event))
        elif kind in ("note", "warn"):
            style = "yellow" if kind == "warn" else "dim"
            self.console.print(f"{'':9} [{style}]{escape(words(event))}[/]", highlight=False)

    def say(self, text: str) -> None:
        self.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + REFRESH_SECONDS
            self._live.update(self._at_work(), refresh=True)

    def close(self) -> None:
        self._live.update("", refresh=True)
        self._live.stop()

    def _ended(self, event: Event) -> Table:
        how = "[red]failed[/]" if event["event"] == "failed" else ""
        if event.get("reused"):
            how = "[green]reused[/]"
        rows = self._rows(7)
        rows.add_row(cell(event["step"]), cell(event["label"]), how, clock(event["seconds"]))
        return rows

    def _at_work(self) -> Table:
        rows = self._rows(7 if self.console.width < WIDE else 20)
        for step in self.run_state.active.values():
            if step.name not in HIDDEN:
                rows.add_row(f"[bold]{cell(step.name)}[/]", cell(step.label), *self._state(step))
        return rows

    def _state(self, step: Active) -> tuple[Any, str]:
        if step.bar is None:
            return "", f"[dim]{clock(int(time.monotonic() - step.since))}[/]"
        total = step.bar["total"]
        return ProgressBar(total=total, completed=step.bar["done"], pulse=total is None), cell(count(step.bar))

    def _rows(self, middle: int) -> Table:
        """An empty grid of step, label, bar or outcome, and numbers."""
        grid = Table.grid(padding=(0, 1))
        for width in (9, 26 if self.console.width < WIDE else 40, middle, None):
            grid.add_column(width=width, no_wrap=True, overflow="ellipsis")
        return grid


def cell(value: Any) -> str:
    """A name or value in a table of rich: neither its markup nor its control characters count."""
    return escape(plain(str(value)))


def results_table(rows: list[dict[str, Any]]) -> Table:
    """The scores in results.json, with one line for each variant, seed and evaluation set."""
    columns = ["variant", "backbone", "dataset", "seed", *SCORES]
    if len({row["dataset"] for row in rows}) <= 1:
        columns.remove("dataset")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numeric = column in ("seed", *SCORES)
        width = max(5, *(len(part) for part in column.split("_"))) if numeric else None
        header = column.replace("_", "_\n")
        table.add_column(header, justify="right" if numeric else "left", no_wrap=numeric, min_width=width)
    for row in rows:
        name = {**row, "variant": f"{row['group']}/{row['variant']}"}
        table.add_row(*(_score(row[c]) if c in SCORES else cell(name[c]) for c in columns))
    return table


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
