"""A Kubernetes API that is away for a while, in each way, while a TrainJob goes on or ends."""

import threading
import time

import pytest
from lives import complete, follow, nothing, running, script

from cliptea import outage
from cliptea.cluster.api import Unreachable


@pytest.fixture(autouse=True)
def patient(kubernetes, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "20")
    monkeypatch.setattr(outage, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(outage, "_told", {}, raising=False)  # what an earlier test has heard


@pytest.mark.parametrize("answer", [0, 429, 500, 503])
@pytest.mark.parametrize("meanwhile", [running, complete])
def test_an_outage_is_told_and_waited_for(kubernetes, capfd, answer, meanwhile):
    def leave(server):
        def come_back():
            meanwhile(server)
            server.away = None

        server.away = answer
        threading.Timer(0.3, come_back).start()

    kubernetes.play = script(running, leave, nothing, complete)
    follow()
    told = capfd.readouterr().err
    assert 1 <= told.count("warning: the Kubernetes API does not answer") <= 2  # of many tries
    assert told.count("the Kubernetes API answers again") == 1
    assert (len(kubernetes.created), kubernetes.deleted) == (1, [])


def test_an_api_that_is_away_when_the_step_begins(kubernetes):
    kubernetes.away = 503
    threading.Timer(0.3, setattr, (kubernetes, "away", None)).start()
    kubernetes.play = script(running, complete)
    follow()
    assert len(kubernetes.created) == 1


def test_an_api_that_stays_away_for_longer_than_the_one_setting(kubernetes, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0.6")
    kubernetes.play = script(running, lambda server: setattr(server, "away", 503))
    start = time.monotonic()
    with pytest.raises(Unreachable, match=r"the Kubernetes API answers 503 .*, for 0.6 s") as caught:
        follow()
    assert 0.6 < time.monotonic() - start < 20
    assert caught.value.temporary  # so that the step is tried again
    assert kubernetes.deleted == []


def test_an_api_that_refuses_connections(kubernetes, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0.2")
    kubernetes.close()
    with pytest.raises(Unreachable, match=r"the Kubernetes API cannot be reached \(nothing listens there\)"):
        follow()
