"""Lives of TrainJobs, played by a fake cluster."""

import os
import signal
import threading
import time

import pytest
from quick_pace import Quick

from cliptea.cluster.api import ClusterError, connect
from cliptea.cluster.follow import Cancelled, train
from cliptea.cluster.job import build
from cliptea.cluster.settings import JobSettings, Passed

NAME = "cliptea-a-0"


def follow(pace=Quick, **settings):
    chosen = JobSettings(image="i:1", **settings)
    train(connect(), build(NAME, "g/a", "k", chosen, Passed(), []), chosen, pace)


def script(*acts):
    """Play one act at every look at the TrainJob, the last one again and again."""
    left = list(acts)

    def play(server):
        act = left.pop(0) if len(left) > 1 else left[0]
        act(server)

    return play


def nothing(server):
    pass


def running(server):
    server.pod("p0")


def complete(server):
    server.end("Complete")


def ended(code, **state):
    terminated = {"exitCode": code, **state}
    return {
        "containerStatuses": [
            {
                "name": "node",
                "image": "i:1",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": terminated},
            }
        ]
    }


def waiting(reason, message):
    state = {"waiting": {"reason": reason, "message": message}}
    return {
        "containerStatuses": [
            {"name": "node", "image": "i:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        ]
    }


def test_a_good_life_shows_the_log_of_rank_zero_once(kubernetes, capfd):
    def first(server):
        server.pod("p1", index=1)
        server.pod("p0")
        server.logs["p1"] = ["2026-01-01T00:00:00.1Z other rank"]
        server.logs["p0"] = [
            "2026-01-01T00:00:00.5Z one",
            "2026-01-01T00:00:00.52Z two",
            "2026-01-01T00:00:00.52Z three",
        ]

    def second(server):
        server.logs["p0"].append("2026-01-01T00:00:01Z two")

    kubernetes.play = script(nothing, first, nothing, second, nothing, complete)
    follow()
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "TrainJob" not in line] == ["one", "two", "three", "two"]
    assert [job["metadata"]["name"] for job in kubernetes.created] == [NAME]
    assert kubernetes.deleted == []


def test_no_node_is_told_at_once_and_waited_for(kubernetes, capfd):
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: 3 Insufficient nvidia.com/gpu",
    }
    pending = lambda server: server.pod("p0", "Pending", conditions=[condition])  # noqa: E731
    kubernetes.play = script(pending, pending, pending, running, complete)
    follow()
    told = capfd.readouterr().err
    assert told.count("warning: p0: no node can take it: 0/3 nodes: 3 Insufficient nvidia.com/gpu") == 1


def test_no_node_for_too_long_fails_and_frees_the_cluster(kubernetes):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    kubernetes.play = lambda server: server.pod("p0", "Pending", conditions=[condition])
    with pytest.raises(ClusterError, match=r"did not start within .*: p0: no node can take it: 0/3 nodes"):
        follow(pending_seconds=1)
    assert kubernetes.deleted == [NAME]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("ImagePullBackOff", "the image i:1 cannot be pulled: m; check its name"),
        ("CreateContainerConfigError", "its container cannot be made: m; check secrets"),
    ],
)
def test_what_never_starts_is_given_up(kubernetes, capfd, reason, message):
    kubernetes.play = lambda server: server.pod("p0", "Pending", **waiting(reason, "m"))
    with pytest.raises(ClusterError, match=message):
        follow()
    assert capfd.readouterr().err.count(f"warning: p0: {message}") == 1
    assert kubernetes.deleted == [NAME]


def test_an_image_that_comes_late_is_no_failure(kubernetes):
    pull = lambda server: server.pod("p0", "Pending", **waiting("ErrImagePull", "m"))  # noqa: E731
    kubernetes.play = script(pull, running, complete)
    follow()


def test_pods_that_may_not_be_made(kubernetes):
    kubernetes.play = lambda server: server.event("FailedCreate", "exceeded quota: gpus")
    with pytest.raises(ClusterError, match="its pods cannot be made: exceeded quota: gpus"):
        follow()


def test_out_of_memory_is_told_in_plain_words(kubernetes):
    def killed(server):
        server.pod("p1", "Failed", index=1, **ended(1))
        server.pod("p0", "Failed", **ended(137, reason="OOMKilled"))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, killed)
    with pytest.raises(ClusterError, match=r"p0: it ran out of memory \(OOMKilled\); give train more memory"):
        follow()
    assert len(kubernetes.created) == 1


def test_a_failure_names_the_code_and_the_last_line(kubernetes):
    def failing(server):
        server.logs["p0"] = ["2026-01-01T00:00:00Z error: the shard is damaged"]
        server.pod("p0", "Failed", **ended(1))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, failing)
    with pytest.raises(
        ClusterError, match=r"p0: its process ended with code 1; its last line: error: the shard is damaged"
    ):
        follow()


def test_a_failure_without_pods_is_in_the_controllers_words(kubernetes):
    kubernetes.play = lambda server: server.end("Failed", "deadline exceeded")
    with pytest.raises(ClusterError, match=f"the TrainJob {NAME} failed: deadline exceeded"):
        follow()


@pytest.mark.parametrize("how", [{"reason": "Evicted", "message": "disk pressure"}, ended(75)])
def test_an_eviction_starts_it_again(kubernetes, capfd, how):
    def evicted(server):
        server.pod("p0", "Failed", **how)
        server.pod("p1", "Failed", index=1, **ended(1))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, evicted, running, complete)
    follow()
    assert len(kubernetes.created) == 2
    assert kubernetes.deleted == [NAME]
    assert "it starts again from its last checkpoint" in capfd.readouterr().err


def test_evictions_without_end_are_a_failure(kubernetes):
    def evicted(server):
        server.pod("p0", "Failed", reason="Evicted", message="disk pressure")
        server.end("Failed", "jobset failed")

    kubernetes.play = evicted
    with pytest.raises(ClusterError, match="evicted from its node or preempted: disk pressure"):
        follow(restarts=2)
    assert len(kubernetes.created) == 3


def test_a_retry_goes_on_with_the_trainjob_that_is_there(kubernetes, capfd):
    cluster = connect()
    assert cluster.create(build(NAME, "g/a", "k", JobSettings(image="i:1"), Passed(), []))
    kubernetes.play = script(nothing, running, complete)
    follow()
    assert len(kubernetes.created) == 1
    assert "is there already: following it" in capfd.readouterr().err


def test_a_retry_replaces_a_failed_trainjob(kubernetes):
    connect().create(build(NAME, "g/a", "k", JobSettings(image="i:1"), Passed(), []))
    kubernetes.end("Failed", "old")
    kubernetes.play = script(nothing, running, complete)
    follow()
    assert (kubernetes.deleted, len(kubernetes.created)) == ([NAME], 2)


def test_a_warning_about_an_earlier_trainjob_of_the_name_is_old(kubernetes):
    connect().create(build(NAME, "g/a", "k", JobSettings(image="i:1"), Passed(), []))
    kubernetes.event("FailedCreate", "long ago")
    kubernetes.events[0]["lastTimestamp"] = "2020-01-01T00:00:00Z"
    kubernetes.play = script(nothing, running, complete)
    follow()


def test_a_trainjob_that_somebody_deletes(kubernetes):
    kubernetes.play = script(running, lambda server: threading.Timer(0.1, server.jobs.clear).start(), nothing)
    with pytest.raises(ClusterError, match="was deleted by somebody else"):
        follow()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_step_deletes_its_trainjob(kubernetes, number):
    kubernetes.play = running
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(Cancelled) as caught:
        follow()
    assert caught.value.code == 128 + number
    assert kubernetes.deleted == [NAME]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_outage_of_the_api_is_waited_for(kubernetes, capfd):
    def leave(server):
        server.away = True
        threading.Timer(0.2, setattr, (server, "away", False)).start()

    kubernetes.play = script(running, leave, nothing, complete)
    follow()
    told = capfd.readouterr().err
    assert told.count("the TrainJob goes on, trying again") == 1
    assert told.count("the Kubernetes API answers again") == 1


def test_an_api_that_stays_away(kubernetes):
    kubernetes.play = script(running, lambda server: setattr(server, "away", True))
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"the Kubernetes API answers 503 .*, for 0.6 s"):
        follow()
    assert time.monotonic() - start < 20


def test_an_api_that_refuses_connections(kubernetes):
    kubernetes.close()
    with pytest.raises(ClusterError, match="the Kubernetes API cannot be reached"):
        follow()


@pytest.mark.parametrize(("verb", "resource"), [("create", "trainjobs"), ("list", "pods"), ("list", "events")])
def test_a_missing_right_is_named(kubernetes, verb, resource):
    kubernetes.denied = {(verb, resource)}
    with pytest.raises(ClusterError, match=f"may not {verb} {resource} in namespace team; expected the Role"):
        follow()


def test_no_cluster_gives_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):
        connect()
