import json
import os
import signal
import subprocess
import sys

import pytest

from cliptea import progress
from cliptea.errors import ConfigError, DataError


class Clock:
    """Time that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def events(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("CLIPTEA_EVENTS", str(path))
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def logged(capsys, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)

    def lines():
        return capsys.readouterr().err.splitlines()

    return lines


def count_at(clock, bar, rate, units):
    for _ in range(units):
        clock.now += 1 / rate
        bar.update(1)


def test_a_step_tells_its_start_notes_and_end(events, clock):
    with progress.step("train", "a/b seed 0"):
        progress.note("2 images were left out")
        progress.warn("the loss is large")
        clock.now += 5
    told = events()
    assert [event["event"] for event in told] == ["start", "note", "warn", "done"]
    assert {(event["step"], event["label"], event["pid"]) for event in told} == {("train", "a/b seed 0", os.getpid())}
    assert told[-1]["seconds"] == 5
    assert told[-1]["reused"] is False


def test_reused_is_the_present_step_only(events):
    with progress.step("split"):
        progress.reused()
    with progress.step("teacher"):
        pass
    assert [event["reused"] for event in events() if event["event"] == "done"] == [True, False]


@pytest.mark.parametrize(
    ("error", "text", "setting", "traced"),
    [
        (DataError("the image\n a.png", "b", "do c"), "the image a.png; expected b; do c", False, False),
        (ConfigError("no"), "no", True, False),
        (ValueError("a\n b"), "ValueError: a b", False, True),
        (KeyError(), "KeyError", False, True),
        (SystemExit(3), "SystemExit: 3", False, True),
    ],
)
def test_a_failed_step_tells_why_in_one_line(events, error, text, setting, traced):
    with pytest.raises(type(error)), progress.step("split"):
        raise error
    told = events()[-1]
    assert (told["event"], told["text"], told["setting"]) == ("failed", text, setting)
    assert ("Traceback" in told["trace"]) is traced


def test_processes_that_a_step_starts_speak_for_it(events):
    with progress.step("train", "a"):
        subprocess.run([sys.executable, "-c", "from cliptea import progress; progress.note('rank 1')"], check=True)
    assert [(e["step"], e["label"], e["text"]) for e in events() if e["event"] == "note"] == [("train", "a", "rank 1")]


def test_a_bar_tells_five_times_a_second_and_at_its_end(events, clock):
    with progress.bar("training", total=2000) as bar:
        count_at(clock, bar, rate=1000, units=1999)  # two seconds
    told = events()
    assert 10 <= len(told) <= 13
    assert [told[0]["done"], told[-1]["done"]] == [0, 1999]
    assert [event["last"] for event in told] == [False] * (len(told) - 1) + [True]


def test_a_bar_that_is_broken_off_tells_how_far_it_came(events, clock):
    def work():
        with progress.bar("training", total=10) as bar:
            bar.update(4)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert events()[-1]["done"] == 4


def test_the_rate_is_recent(clock, events):
    with progress.bar("training", total=10_000) as bar:
        count_at(clock, bar, rate=100, units=4000)
        count_at(clock, bar, rate=10, units=300)
        assert bar.rate == pytest.approx(10, rel=0.05)
        bar.tell()
    told = events()[-1]
    assert told["left"] == pytest.approx((10_000 - 4300) / 10, rel=0.05)


def test_what_an_earlier_run_did_is_not_taken_for_speed(clock, events):
    with progress.bar("training", total=1000, done=900) as bar:
        assert bar.rate == 0
        count_at(clock, bar, rate=5, units=10)
        assert bar.rate == pytest.approx(5)
    assert events()[0]["done"] == 900
    assert events()[0]["left"] is None


def test_a_stall_lowers_the_rate(clock, events):
    with progress.bar("training", total=1000) as bar:
        count_at(clock, bar, rate=10, units=100)
        clock.now += 1000
        assert bar.rate < 0.2


def test_values_stand_beside_the_bar(clock, events):
    with progress.bar("training", total=3, unit="image") as bar:
        bar.update(1, loss=0.25)
        bar.update(1, lr=1e-3)
    assert events()[-1]["values"] == {"loss": 0.25, "lr": 0.001}
    assert events()[-1]["unit"] == "image"


def test_without_a_file_lines_are_logged_every_half_minute(clock, logged):
    with progress.step("train", "a"), progress.bar("training", total=1000, done=280) as bar:
        count_at(clock, bar, rate=8, units=720)  # a minute and a half
    assert logged() == [
        "train a: started",
        "train a: training 280/1000 it",
        "train a: training 520/1000 it, 8/s, 1 min 00 s left",
        "train a: training 760/1000 it, 8/s, 30 s left",
        "train a: training 1000/1000 it, 8/s",
        "train a: training 1000/1000 it, 8/s",
        "train a: done in 1 min 30 s",
    ]


def test_without_a_file_a_failure_is_logged(logged):
    with pytest.raises(DataError), progress.step("split"):
        raise DataError("a.png is truncated")
    assert logged()[-1] == "split: failed after 0.0 s: a.png is truncated"


def test_a_full_disk_does_not_end_the_work(monkeypatch):
    monkeypatch.setenv("CLIPTEA_EVENTS", "/dev/full")
    with progress.step("split"), progress.bar("reading") as bar:
        bar.update(1)


def test_after_a_line_that_a_full_disk_has_cut_the_next_one_is_whole(tmp_path, monkeypatch):
    import resource

    path, limits = tmp_path / "events.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setenv("CLIPTEA_EVENTS", str(path))
    monkeypatch.setattr(progress, "_torn", False)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a short write then, as on a full disk
    try:
        progress.note("first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, limits[1]))
        progress.note("second")
        progress.note("third")  # of which nothing is written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    progress.note("fourth")
    first, cut, last = path.read_text().splitlines()
    assert [json.loads(first)["text"], len(cut), json.loads(last)["text"]] == ["first", 30, "fourth"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_clock(seconds, text):
    assert progress.clock(seconds) == text


def test_lines_of_many_processes_do_not_mix(events):
    code = "from cliptea import progress\nfor i in range(200): progress.note('x' * 3000)"
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert [event["text"] for event in events()] == ["x" * 3000] * 600
