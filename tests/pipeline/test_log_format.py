"""`--log-format json`: each line that a run prints is one JSON object."""

import json

import pytest

KNOWN = {"time", "level", "run", "step", "variant", "message"}


def lines(text):
    told = [json.loads(line) for line in text.splitlines()]
    assert all(line.keys() >= KNOWN for line in told)
    return told


def test_a_run_that_succeeds(cliptea):
    ended = cliptea("run", "--log-format", "json", "--preset", "tiny", variants=["a/b"], wait={"train a/b": 1})
    assert (ended.returncode, ended.stderr) == (0, "")
    told = lines(ended.stdout)
    of_train = [line for line in told if (line["step"], line["variant"]) == ("train", "a/b")]
    assert [of_train[0]["message"], of_train[-1]["event"]] == ["started", "done"]
    assert of_train[-1]["seconds"] >= 1
    assert len({line["run"] for line in told}) == 1
    assert all(line["run"] for line in told)
    assert told[-1]["made"] == 6
    assert told[-1]["report"].endswith("report.html")


@pytest.mark.parametrize("kind", ["user", "bug"])
def test_a_run_that_fails(cliptea, kind):
    ended = cliptea("run", "--log-format", "json", "--preset", "tiny", variants=["a/b"], fail={"train a/b": kind})
    assert ended.returncode == 1
    failed = [line for line in lines(ended.stdout) if line["level"] == "error"]
    assert [(line["step"], line["variant"], line["event"]) for line in failed] == [("train", "a/b", "failed")]
    first, *more = lines(ended.stderr)
    assert (first["level"], first["step"], first["variant"], first["run"]) == (
        "error",
        "train",
        "a/b",
        failed[0]["run"],
    )
    assert failed[0]["message"].endswith(first["message"].removeprefix("train a/b: "))
    assert more[-1]["message"].startswith("log: ")


def test_what_is_refused_before_the_run(cliptea):
    refused = cliptea("run", "--log-format", "json", "--preset", "unknown")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = lines(refused.stderr)
    assert (line["level"], line["message"]) == ("error", "the preset 'unknown' does not exist")
    wrong = cliptea("run", "--log-format", "xml")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --log-format is 'xml'; expected text or json\n")
