"""What may pass by itself is tried again inside the step, as often as the placement says; all else fails at once."""

import json
import math
import ssl

import pytest
import requests
import urllib3
from pydantic import ValidationError

from cliptea.errors import ClipteaError, ConfigError, DataError, ServerAway, StorageError
from cliptea.steps import retries
from cliptea.steps.retries import Retries, may_pass, persistently


class Passing(ClipteaError):
    temporary = True


@pytest.fixture
def slept(monkeypatch):
    seconds = []
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setattr(retries.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def four(monkeypatch):
    given = {"count": 4, "wait_seconds": 30, "factor": 2.0, "longest_wait_seconds": 100}
    monkeypatch.setenv("CLIPTEA_RETRIES", json.dumps(given))


def failing(times, error):
    left = [error] * times

    def work():
        if left:
            raise left.pop()
        return "made"

    return work


def test_waits_grow_and_are_told(slept, four, capfd):
    assert persistently(failing(4, Passing("partners have gone"))) == "made"
    assert slept == [30, 60, 100, 100]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 4
    assert "warning: partners have gone; trying again in 30 s, 4 retries left" in said[0]


def test_the_last_failure_is_the_steps(slept, four):
    with pytest.raises(Passing, match="partners have gone"):
        persistently(failing(5, Passing("partners have gone")))
    assert len(slept) == 4


@pytest.mark.parametrize("error", [DataError("a.png is no image"), KeyError("x"), StorageError("access is denied")])
def test_what_cannot_pass_fails_at_once(slept, four, error):
    with pytest.raises(type(error)):
        persistently(failing(1, error))
    assert slept == []


def test_a_run_on_one_machine_tries_once(slept, four, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    with pytest.raises(Passing):
        persistently(failing(1, Passing("gone")))
    assert slept == []


@pytest.mark.parametrize("key", list(Retries.model_fields))
@pytest.mark.parametrize("value", [math.inf, math.nan, 1e300, -1])
def test_no_wait_is_without_end(key, value):
    with pytest.raises(ValidationError):
        Retries.model_validate({key: value})


def test_the_largest_retries_can_be_counted(slept, monkeypatch):
    largest = {"count": 100, "wait_seconds": 86400, "factor": 100, "longest_wait_seconds": 86400}
    monkeypatch.setenv("CLIPTEA_RETRIES", json.dumps(largest))
    assert persistently(failing(100, Passing("gone"))) == "made"
    assert slept == [86400] * 100


@pytest.mark.parametrize("given", ["two", '{"count": "x"}', '{"often": 2}'])
def test_a_wrong_setting_is_refused(monkeypatch, given):
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setenv("CLIPTEA_RETRIES", given)
    with pytest.raises(ConfigError, match="CLIPTEA_RETRIES"):
        persistently(lambda: None)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (requests.ConnectionError("refused"), True),
        (requests.ReadTimeout("slow"), True),
        (requests.HTTPError("404"), False),
        (urllib3.exceptions.NewConnectionError(None, "refused"), True),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "slow"), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (TimeoutError(), True),
        (ssl.SSLCertVerificationError("self signed"), False),
        (urllib3.exceptions.SSLError("self signed"), False),
        (requests.exceptions.SSLError("self signed"), False),
        (OSError(28, "No space left on device"), False),
        (PermissionError(), False),
        (MemoryError(), False),
        (ValueError("a bug"), False),
        (ServerAway("waited for"), False),
        (Passing("gone"), True),
        (ClipteaError("wrong"), False),
        (urllib3.exceptions.MaxRetryError(None, "/", urllib3.exceptions.SSLError("self signed")), False),
    ],
)
def test_what_may_pass(error, passes):
    assert may_pass(error) is passes
