"""A Kubernetes API that is away for a while, in each way, while a TrainJob goes on or ends."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import pytest
from certificates import self_signed
from cluster.kubernetes_objects import deleted
from lives import complete, ended, follow, nothing, running, script, waiting
from quick_pace import Quick
from small_servers import served
from test_lives import NODE_LOST

from cliptea import outage
from cliptea.cluster import follow as module
from cliptea.cluster.kubernetes_api import Cluster, ClusterError, Unreachable


@pytest.fixture(autouse=True)
def patient(kubernetes, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "20")
    monkeypatch.setattr(outage, "LONGEST_PAUSE", 0.05)


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


class Clock:
    """The follower's time, which can run ahead.

    What is planned happens while the follower sleeps, never during a request, so the polls' speed does not matter.
    """

    def __init__(self, monkeypatch):
        self.ahead = 0.0
        self.plan = []  # what happens during each of the next sleeps
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=self.now, sleep=self.sleep))

    def now(self):
        return time.monotonic() + self.ahead

    def sleep(self, seconds):
        time.sleep(seconds)
        if self.plan:
            self.plan.pop(0)()

    def run_ahead(self, seconds):
        self.ahead += seconds

    def an_hour_away(self, server):
        def come_back():
            self.run_ahead(3600)
            server.away = None

        server.away = 503
        self.plan = [idle, idle, come_back]


def idle():
    """Nothing happens during this sleep."""


class Unhurried(Quick):
    gone = hopeless = 300.0


def test_an_old_trainjob_has_its_time_to_go_after_an_outage(kubernetes, monkeypatch):
    """The API goes away between a failure and the TrainJob's deletion."""
    clock, delete = Clock(monkeypatch), Cluster.delete

    def away_at_first(cluster, name):
        if not clock.ahead:
            clock.an_hour_away(kubernetes)
        delete(cluster, name)

    def lost(server):
        server.pod("p0", "Failed", **ended(76))
        server.end("Failed")

    monkeypatch.setattr(Cluster, "delete", away_at_first)
    kubernetes.play = script(running, lost, running, complete)
    follow(Unhurried)
    assert (len(kubernetes.created), len(kubernetes.deleted)) == (2, 1)


def on_node(server, *names):
    for pod in server.pods:
        if pod["metadata"]["name"] in names:
            pod["spec"] = {"nodeName": "gpu-7", "containers": [{"name": "node", "resources": {}}]}


def never_gone(kubernetes, monkeypatch, *pods):
    """Let the deletion of a failed TrainJob not end, because of these pods."""
    told = []

    def delete(cluster, name):
        told.append(name)
        kubernetes.jobs[name] = deleted(kubernetes.jobs[name])
        kubernetes.deleting(*pods)
        on_node(kubernetes, *pods)

    monkeypatch.setattr(Cluster, "delete", delete)
    return told


HELD = (
    "the old TrainJob cliptea-g-a-.* is still not deleted: its pod p1 on node gpu-7 does not end; if the node is lost, "
    "run `kubectl -n team delete pod p1 --force` or `kubectl taint node gpu-7 "
    "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`"
)


class Waiting(Quick):
    gone = -1.0  # with a grace period of a second, an old TrainJob is late at once


def lost_for_good(server):
    server.gone("p0")
    server.pod("p1", index=1, conditions=[NODE_LOST])
    server.end("Failed")


def test_a_pod_of_a_lost_node_is_named_and_waited_for(kubernetes, monkeypatch, capfd):
    deletions = never_gone(kubernetes, monkeypatch, "p1")

    def leave():
        kubernetes.gone("p1")
        kubernetes.jobs.clear()

    def lost(server):
        lost_for_good(server)
        threading.Timer(1.5, leave).start()

    pend = lambda server: server.pod("p1", "Pending", index=1)  # noqa: E731
    kubernetes.play = script(running, lost, *[pend] * 20, running, complete)
    follow(Waiting, grace_seconds=1, pending_seconds=60)
    assert (len(kubernetes.created), len(deletions)) == (2, 1)
    said = [line for line in capfd.readouterr().err.splitlines() if "is still not deleted" in line]
    assert len(said) == 1
    assert re.fullmatch(f"warning: p1: {HELD}", said[0])


def test_the_new_trainjob_has_all_of_its_time_to_start(kubernetes, monkeypatch):
    clock = Clock(monkeypatch)
    never_gone(kubernetes, monkeypatch, "p1")

    def leave():
        kubernetes.gone("p1")
        kubernetes.jobs.clear()

    def lost(server):
        lost_for_good(server)
        clock.plan = [idle, lambda: clock.run_ahead(3000), idle, leave]

    def late(server):
        server.pod("p1", "Pending", index=1)
        clock.run_ahead(100)

    kubernetes.play = script(running, lost, *[late] * 10, running, complete)
    follow(Quick, pending_seconds=3600)
    assert len(kubernetes.created) == 2


def test_an_old_trainjob_that_does_not_go_is_told_in_the_end(kubernetes, monkeypatch):
    never_gone(kubernetes, monkeypatch, "p1")
    kubernetes.play = script(running, lost_for_good)
    with pytest.raises(ClusterError, match=HELD):
        follow(Waiting, grace_seconds=1, pending_seconds=1)


def test_an_old_trainjob_without_pods_that_does_not_go_is_told(kubernetes, monkeypatch):
    monkeypatch.setattr(Cluster, "delete", lambda cluster, name: None)
    kubernetes.play = lambda server: server.end("Failed")
    with pytest.raises(ClusterError, match="failed: jobset failed"):
        follow()
    words = r"the old TrainJob cliptea-g-a-.* is still not deleted, and none of its pods is left: `kubectl -n team get "
    with pytest.raises(ClusterError, match=words):
        follow(Waiting, grace_seconds=1, pending_seconds=1)


def test_an_outage_is_no_time_in_which_pods_could_have_started(kubernetes, monkeypatch):
    clock = Clock(monkeypatch)

    def pending(server):
        server.pod("p0", "Pending")

    kubernetes.play = script(pending, clock.an_hour_away, pending, pending, running, complete)
    follow(pending_seconds=1800)
    assert (clock.ahead, kubernetes.deleted) == (3600, [])


def test_an_outage_is_no_time_in_which_a_wrong_image_could_have_been_mended(kubernetes, monkeypatch):
    clock = Clock(monkeypatch)

    def wrong(server):
        server.pod("p0", "Pending", **waiting("ErrImagePull", "not found"))

    kubernetes.play = script(wrong, wrong, clock.an_hour_away, wrong, wrong, running, complete)
    follow(Unhurried, pending_seconds=7200)
    assert (clock.ahead, kubernetes.deleted) == (3600, [])


def test_a_certificate_that_is_not_trusted_is_not_waited_for(kubernetes, monkeypatch, tmp_path):
    with served(BaseHTTPRequestHandler, self_signed(tmp_path)) as url:
        config = json.loads(kubernetes.kubeconfig())
        config["clusters"][0]["cluster"]["server"] = url
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        with pytest.raises(ClusterError, match=r"CERTIFICATE_VERIFY_FAILED.*correct the CA of the cluster") as caught:
            follow()
    assert not caught.value.temporary


def test_an_api_that_refuses_connections(kubernetes, monkeypatch):
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0.2")
    kubernetes.close()
    with pytest.raises(Unreachable, match=r"the Kubernetes API cannot be reached \(nothing is listening there\)"):
        follow()
