"""The events of a run as a user sees them, without a run."""

import io
import json
import os

import pytest
from rich.console import Console

from cliptea_pipeline import display
from cliptea_pipeline.display import Plain, Terminal, results_table
from cliptea_pipeline.events import RunState, Tail


def event(kind, step="train", label="a", **facts):
    return {"event": kind, "step": step, "label": label, "pid": os.getpid(), **facts}


def bar(done, last=False):
    return event("bar", text="training", total=100, unit="it", done=done, rate=2.0, left=5.0, values={}, last=last)


@pytest.fixture
def plain(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    view = Plain(Console(file=io.StringIO(), width=40), RunState())

    def show(seconds, told):
        now[0] = seconds
        view.show(told)
        return view.console.file.getvalue().splitlines()

    return show


def test_plain_progress_comes_every_fifteen_seconds(plain):
    plain(0, event("start"))
    for seconds in range(1, 40):
        lines = plain(seconds, bar(seconds))
    assert lines == [
        "train a: started",
        *(f"train a: training {n}/100 it, 2/s, 5.0 s left" for n in (15, 30)),
    ]


def test_plain_lines_are_never_broken_or_interpreted(plain):
    text = "[bold]" + "x" * 100
    assert plain(0, event("note", text=text)) == [f"train a: {text}"]


def test_bookkeeping_is_hidden_unless_it_fails(plain):
    assert plain(0, event("start", "finish", "")) == []
    assert plain(0, event("failed", "finish", "", seconds=1, text="x")) == ["finish: failed after 1.0 s"]


def test_a_line_that_is_half_written_is_read_later(tmp_path):
    path = tmp_path / "events.jsonl"
    first, second = ({**event("note", text=text), "pid": 1} for text in ("a", "b"))
    line = json.dumps(second)
    path.write_text(f"{json.dumps(first)}\n{line[:20]}")
    tail = Tail(path)
    assert tail.read() == [first]
    with path.open("a") as file:
        file.write(f"{line[20:]}\n")
    assert tail.read() == [second]
    assert tail.read() == []


def test_lines_that_are_cut_or_no_events_are_passed_over(tmp_path):
    path, whole = tmp_path / "events.jsonl", {**event("note", text="a"), "pid": 1}
    line = json.dumps(whole)
    path.write_text(f"{line[:20]}{line}\n\n[1]\n3\n{{}}\n{line}\n{'[' * 100000}\n")
    with path.open("ab") as file:
        file.write(b"\xff\n")
    assert Tail(path).read() == [whole]


def test_steps_that_always_run_are_not_counted():
    run_state = RunState()
    for step, reused in (("resolve", False), ("split", True), ("train", False), ("promote", False)):
        run_state.add(event("start", step))
        run_state.add(event("done", step, reused=reused, seconds=1))
    assert (run_state.reused, run_state.made, run_state.active) == (1, 1, {})


def test_a_step_without_a_process_is_a_suspect():
    run_state = RunState()
    run_state.add(event("start"))
    assert run_state.suspects() == []
    run_state.add(event("start", label="b") | {"pid": 2**22 + 1})
    assert [step.label for step in run_state.suspects()] == ["b"]


def test_the_table_fits_a_terminal():
    scores = {"pAcc": 0.5, "miou_seen": 0.25, "miou_unseen": None, "hiou": None}
    row = {
        "variant": "a_long_name_of_a_variant",
        "group": "table3",
        "backbone": "segformer_b0",
        "seed": 0,
        **scores,
    }
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table([row | {"dataset": "a"}, row | {"dataset": "b"}]))
    shown = console.file.getvalue()
    assert shown.count("0.500  0.250       -      -") == 2
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_neither_markup_nor_control_characters_of_a_bar_count():
    """A bar of a run on a cluster comes from the store, where others may write."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    view = Terminal(console, RunState())
    view.show(event("start"))
    view.show(bar(5) | {"unit": "[/x]\x1b]0;t\x07", "values": {"[b]": 1.0}})
    view.tick()
    view.close()
    shown = console.file.getvalue()
    assert r"5/100 [/x]\x1b]0;t\x07" in shown
    assert "[b] 1" in shown
    assert "\x1b]0" not in shown
