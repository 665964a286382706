"""How long a server is waited for, and what is said meanwhile."""

import itertools
import threading

import pytest
from typer.testing import CliRunner

from cliptea import outage, progress
from cliptea.errors import ConfigError
from cliptea.outage import Outage, patience, present
from cliptea.steps.common import run_step
from cliptea_pipeline.cli import app


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
    return clock


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(progress, "warn", lines.append)
    monkeypatch.setattr(progress, "note", lines.append)
    return lines


@pytest.mark.parametrize(
    ("given", "in_step", "seconds"),
    [("", True, 600.0), ("", False, 10.0), ("45", True, 45.0), ("45", False, 45.0), ("0", True, 0.0)],
)
def test_the_patience_of_steps_and_commands(monkeypatch, given, in_step, seconds):
    monkeypatch.setenv("CLIPTEA_PATIENCE", given)
    monkeypatch.delenv("CLIPTEA_STEP", raising=False)
    if in_step:
        monkeypatch.setenv("CLIPTEA_STEP", '["train", ""]')
    assert patience() == seconds


@pytest.mark.parametrize("given", ["inf", "nan", "-1", "10m", "1e15", "1_0"])
def test_what_is_no_time_is_refused_before_anything_is_done(monkeypatch, capsys, given):
    monkeypatch.setenv("CLIPTEA_PATIENCE", given)
    monkeypatch.delenv("CLIPTEA_STORE", raising=False)
    monkeypatch.delenv("CLIPTEA_ALIVE", raising=False)
    with pytest.raises(ConfigError, match=f"CLIPTEA_PATIENCE is '{given}'; expected a number of seconds"):
        patience()
    done = []
    with pytest.raises(SystemExit):
        run_step("train", lambda: done.append("work"))
    assert done == []
    assert f"error: CLIPTEA_PATIENCE is '{given}'" in capsys.readouterr().err
    ended = CliRunner().invoke(app, ["plan", "--preset", "smoke"])
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert "CLIPTEA_PATIENCE" in ended.stderr


def test_no_patience_is_one_try(clock):
    assert not Outage("S3 at http://s3:8333", 0).wait("Connection refused")
    assert clock.slept == []


def test_a_server_is_asked_for_as_long_as_our_patience_lasts(clock, told):
    away, tries = Outage("S3 at http://s3:8333", 600), 1
    while away.wait("Connection refused"):
        tries += 1
    assert clock.now == pytest.approx(1600)
    assert 60 < tries < 90  # every ten seconds, in the end
    assert 0.3 < clock.slept[0] < 0.7


def test_an_outage_is_told_at_once_and_each_minute(clock, told):
    away, moments = Outage("S3 at http://s3:8333", 230), []
    while away.wait("Connection refused"):
        moments += [clock.now] * (len(told) - len(moments))
    assert len(told) == 4
    assert all(50 <= later - sooner < 85 for sooner, later in itertools.pairwise(moments))
    assert "S3 at http://s3:8333 does not answer (Connection refused); trying again for another 3 min" in told[0]
    assert "no answer for 1 min" in told[1]


def test_one_failure_alone_is_no_news(clock, told):
    away = Outage("S3 at http://s3:8333", 600)
    assert away.wait("the connection breaks")
    away.over()
    assert told == []


def test_many_requests_that_wait_for_one_server_are_told_as_one(clock, told):
    waiting = [Outage("S3 at http://s3:8333", 600) for _ in range(16)]
    other = Outage("MLflow at http://mlflow", 600)
    while clock.now < 1050:
        for away in [*waiting, other]:
            assert away.wait("Connection refused")
    assert [line.partition(" at ")[0] for line in told] == ["S3", "MLflow"]
    for away in waiting:
        away.over()
    assert len(told) == 3
    assert "S3 at http://s3:8333 answers again, after" in told[-1]


def test_the_return_is_told_by_whoever_hears_of_it(clock, told):
    away = Outage("S3 at http://s3:8333", 5)
    while away.wait("Connection refused"):
        pass
    Outage("S3 at http://s3:8333", 5).over()
    assert "answers again" in told[-1]


def test_it_is_known_whether_a_server_is_waited_for():
    away = Outage("S3 at http://s3:8333", 600)
    waiting = threading.Thread(target=away.wait, args=("Connection refused",))
    assert not present()
    waiting.start()
    waiting.join()
    assert present()
    away.over()
    assert not present()


def test_a_request_that_was_given_up_is_waited_for_no_longer():
    away = Outage("S3 at http://s3:8333", 600)
    assert away.wait("Connection refused")
    assert present()
    del away
    assert not present()
