"""A log as text or as JSON: both say the same, and each line of JSON is one object."""

import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from cliptea import progress
from cliptea.errors import ConfigError, DataError
from cliptea.log_lines import Who, as_text, choose_format, json_line, tell
from cliptea.steps.common import run_step

KNOWN = ["time", "level", "run", "step", "variant", "message"]


@pytest.fixture(params=["text", "json"])
def form(request, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", request.param)
    return request.param


@pytest.fixture
def log(capsys, form):
    """The lines so far: objects, or their text."""

    def read():
        lines = capsys.readouterr().err.splitlines()
        return [json.loads(line) for line in lines] if form == "json" else lines

    return read


@pytest.fixture
def as_json(monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "json")


def work():
    with progress.bar("training", 4, "it") as bar:
        bar.update(2, loss=0.5, odd=math.nan)
    progress.note("an image was left out")
    progress.warn("the loss is large")


def test_the_log_of_a_step(log, form):
    with progress.step("train", "a/b", "job-1"):
        work()
    told = log()
    if form == "text":
        assert told[0] == "train a/b: started"
        assert told[-3:-1] == ["train a/b: an image was left out", "train a/b: warning: the loss is large"]
        return
    assert all(list(line)[:6] == KNOWN for line in told)
    assert {(line["run"], line["step"], line["variant"]) for line in told} == {("job-1", "train", "a/b")}
    assert [line["level"] for line in told] == ["info"] * (len(told) - 2) + ["warning", "info"]
    assert told[0]["message"] == "started"
    assert told[-2]["message"] == "the loss is large"
    bar = [line for line in told if line["event"] == "bar"][-1]
    assert (bar["done"], bar["total"], bar["unit"]) == (2, 4, "it")
    assert bar["rate"] > 0
    assert bar["values"] == {"loss": 0.5, "odd": None}  # JSON has no NaN
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told[0]["time"])) < timedelta(minutes=5)


@pytest.mark.parametrize("error", [DataError("a.png\n is truncated", "an image"), ValueError("no")])
def test_an_error_in_a_step(log, form, error):
    def fail():
        raise error

    user = isinstance(error, DataError)
    with pytest.raises(SystemExit if user else ValueError):
        run_step("split", fail, job_id="job-1")
    said = "a.png is truncated; expected an image" if user else "ValueError: no"
    told = log()
    if form == "text":
        assert told[1] == f"split: failed after 0.0 s: {said}"
        assert told[2:] == [f"error: {said}"] * user
        return
    assert [line["level"] for line in told] == ["info", "error"] + ["error"] * user
    assert {(line["run"], line["step"]) for line in told} == {("job-1", "split")}
    assert told[1]["message"] == f"failed after 0.0 s: {said}"
    assert ("Traceback" in told[1]["trace"]) is not user
    assert [line["message"] for line in told[2:]] == [said] * user


def test_json_says_the_same_as_text(monkeypatch, capsys, as_json):
    for run in (False, True):
        if run:
            monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "text")
        with progress.step("train", "a", "job-1"):
            progress.note("one")
            progress.warn("two")
            tell("error", "three")
            tell("info", "four")
        progress.note("five")
    lines = capsys.readouterr().err.splitlines()
    half = len(lines) // 2
    assert [as_text(line) for line in lines[:half]] == lines[half:]


@pytest.mark.parametrize("line", ["", "I1125 launcher_v2.go", "error: x", "{}", '{"a": 1}', "[1]", "7", '"x"', "{"])
def test_other_lines_stay(line):
    assert as_text(line) == line


def test_a_line_holds_no_secret_and_no_line_break(as_json, capsys):
    tell("error", "no answer of http://u:hunter2x@h\nnow\x1b[31m")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == r"no answer of http://***@h\nnow\x1b[31m"
    assert line.isascii()


def test_a_format_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="CLIPTEA_LOG_FORMAT is 'xml'; expected text or json"):
        choose_format()
    with pytest.raises(ConfigError, match="--log-format is 'JSON'; expected text or json"):
        choose_format("JSON")
    choose_format("text")  # the option takes precedence
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "")
    choose_format()


def test_a_step_refuses_a_format_that_does_not_exist(monkeypatch, capsys):
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "xml")
    with pytest.raises(SystemExit):
        run_step("split", lambda: pytest.fail("it has started"))
    assert capsys.readouterr().err.splitlines()[-1] == "error: CLIPTEA_LOG_FORMAT is 'xml'; expected text or json"


def test_facts_follow_the_message():
    line = json.loads(json_line("info", "done", Who("train", "a", "r"), seconds=2.0, files={"x": math.inf}))
    assert list(line) == [*KNOWN, "seconds", "files"]
    assert (line["seconds"], line["files"]) == (2.0, {"x": None})


def test_a_line_shows_neither_secrets_nor_control_characters(log, form):
    tell("info", "run https://ci:S3cretPass@host/#/runs/details/r \x1b[2J")
    tell("error", "a\x1b]0;x\x07\nb https://ci:S3cretPass@host")
    lines = log()
    shown = "\n".join(line["message"] if form == "json" else line for line in lines)
    assert "S3cretPass" not in shown
    assert shown.replace("\n", "").isprintable()
    assert r"run https://***@host/#/runs/details/r \x1b[2J" in shown


LOUD = """
from threading import Barrier, Thread
from cliptea import progress
together = Barrier(4)
def print_lines(name):
    together.wait()
    for number in range(200):
        progress.warn(f"{name} {number}")
threads = [Thread(target=print_lines, args=(name,)) for name in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_lines_of_threads_and_processes_do_not_mix():
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "CLIPTEA_LOG_FORMAT": "text"}  # unbuffered, as in the images
    variables.pop("CLIPTEA_EVENTS", None)
    read, write = os.pipe()
    processes = [subprocess.Popen([sys.executable, "-c", LOUD], stderr=write, env=variables) for _ in range(2)]
    os.close(write)
    with open(read) as pipe:
        lines = pipe.read().splitlines()
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(lines) == sorted(2 * [f"warning: {name} {number}" for name in "abcd" for number in range(200)])
