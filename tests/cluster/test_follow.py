"""Lives of TrainJobs, played by a fake cluster: good ones, evictions, retries, cancelling."""

import json
import os
import signal
import threading

import pytest
from lives import NAME, complete, ended, follow, nothing, running, script
from quick_pace import Quick

from cliptea.cluster.follow import Cancelled
from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import ClusterError, connect


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


NO_FILE = (
    'failed to try resolving symlinks in path "/var/log/pods/p0": lstat /var/log/pods/p0: no such file or directory'
)


def test_the_log_goes_on_after_a_line_without_a_time(kubernetes, capfd):
    """What the kubelet answers while the file of a log is missing, as it was seen after an eviction."""

    def first(server):
        server.pod("p0")
        server.logs["p0"] = ["2026-01-01T00:00:00.5Z one"]

    def missing(server):
        server.logs["p0"] = [NO_FILE]

    def again(server):
        server.logs["p0"] = ["2026-01-01T00:00:01.25+00:00 two", "2026-01-01T02:00:02+02:00 three"]

    kubernetes.play = script(first, missing, again, complete)
    follow()
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "TrainJob" not in line] == ["one", "two", "three"]


@pytest.mark.parametrize("trouble", ["500", "denied", "cut off"])
def test_a_log_that_cannot_be_read_costs_a_warning(kubernetes, capfd, trouble):
    def first(server):
        server.pod("p0")
        server.logs["p0"] = ["2026-01-01T00:00:00.5Z one"]
        if trouble == "500":
            server.broken.add("pods/log")
        elif trouble == "denied":
            server.denied.add(("get", "pods/log"))
        else:
            server.cut.add("log")

    kubernetes.play = script(first, nothing, nothing, complete)
    follow()
    assert capfd.readouterr().err.count("the log of pod p0 cannot be read") == 1


EVICTED = {"reason": "Evicted", "message": "disk pressure"}


class Hasty(Quick):
    gone = 0.1


def test_deleted_pods_may_take_their_grace_period(kubernetes):
    """A TrainJob is there until its pods are gone, and these save a checkpoint first."""

    def evicted(server):
        server.pod("p0", "Failed", **EVICTED)
        server.end("Failed")

    kubernetes.lingers = 1.0
    kubernetes.play = script(running, evicted, running, complete)
    follow(Hasty, grace_seconds=60)
    assert (len(kubernetes.created), kubernetes.deleted) == (2, [NAME])


@pytest.mark.parametrize(("one", "other"), [(EVICTED, ended(1)), (ended(75), ended(75))])
def test_an_eviction_starts_it_again(kubernetes, capfd, one, other):
    def evicted(server):
        server.pod("p0", "Failed", **one)
        server.pod("p1", "Failed", index=1, **other)
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, evicted, running, complete)
    follow()
    assert len(kubernetes.created) == 2
    assert kubernetes.deleted == [NAME]
    assert "restarting from its last checkpoint" in capfd.readouterr().err


def test_a_pod_that_is_stopped_since_another_failed_is_no_eviction(kubernetes):
    def failing(server):
        server.pod("p0", "Failed", **ended(75))
        server.pod("p1", "Failed", index=1, **ended(1))
        server.end("Failed", "jobset failed")

    kubernetes.play = script(running, failing)
    with pytest.raises(ClusterError, match="p1: its process ended with code 1"):
        follow()
    assert len(kubernetes.created) == 1


def test_evictions_without_end_are_a_failure(kubernetes):
    def evicted(server):
        server.pod("p0", "Failed", reason="Evicted", message="disk pressure")
        server.end("Failed", "jobset failed")

    kubernetes.play = evicted
    with pytest.raises(ClusterError, match="evicted from its node or preempted: disk pressure"):
        follow(restarts=2)
    assert len(kubernetes.created) == 3


def test_lines_of_another_pod_are_printed_though_the_clock_of_its_node_is_behind(kubernetes, capfd):
    def first(server):
        server.logs["a"] = ["2026-01-01T00:10:00.1Z iteration 500"]
        server.pod("a")

    def second(server):
        server.logs["b"] = ["2026-01-01T00:09:00.1Z resumed at 500", "2026-01-01T00:09:30.1Z iteration 600"]
        server.gone("a")
        server.pod("b")

    kubernetes.play = script(first, second, second, complete)
    follow()
    printed = capfd.readouterr().err.splitlines()
    lines = "iteration 500", "resumed at 500", "iteration 600"
    assert [line for line in printed if line in lines] == list(lines)


def test_a_retry_goes_on_with_the_trainjob_that_is_there(kubernetes, capfd):
    cluster = connect()
    assert cluster.create(build("j", "g/a", ["train"], JobSettings(image="i:1"), Passed(), []))
    kubernetes.play = script(nothing, running, complete)
    follow()
    assert len(kubernetes.created) == 1
    assert "already exists: following it" in capfd.readouterr().err


def test_a_retry_replaces_a_failed_trainjob(kubernetes):
    connect().create(build("j", "g/a", ["train"], JobSettings(image="i:1"), Passed(), []))
    kubernetes.end("Failed", "old")
    kubernetes.play = script(nothing, running, complete)
    follow()
    assert (kubernetes.deleted, len(kubernetes.created)) == ([NAME], 2)


def test_a_trainjob_that_somebody_deletes(kubernetes):
    kubernetes.play = script(running, lambda server: threading.Timer(0.1, server.jobs.clear).start(), nothing)
    with pytest.raises(ClusterError, match="was deleted by someone else"):
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


def test_a_trainjob_that_cannot_be_deleted_is_told(kubernetes, capfd):
    def away(server):
        server.away = 503
        os.kill(os.getpid(), signal.SIGTERM)

    kubernetes.play = script(running, away)
    with pytest.raises(Cancelled):
        follow()
    assert f"TrainJob {NAME} could not be deleted" in capfd.readouterr().err


def test_no_cluster_gives_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):
        connect()


def configured(**sections):
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}
    user = {"name": "u", "user": {"token": "s3cret"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    known = {"current-context": "c", "contexts": [context], "clusters": [cluster], "users": [user]}
    return json.dumps(known | sections).encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"users:\n\t- token: s3cret", "ScannerError in line 2"),
        (b"users: [s3cret", "ParserError in line 1"),
        (b"s3cret", "TypeError"),
        (b"[1, 2]", "TypeError"),
        (bytes(range(128, 256)), "UnicodeDecodeError"),
        (b"a\0b", "ReaderError"),
        (configured(clusters=[{"name": "c", "cluster": {"server": 5}}]), "AttributeError"),
        (
            configured(
                clusters=[{"name": "c", "cluster": {"server": "https://a", "certificate-authority-data": "!a"}}]
            ),
            "Error",
        ),
    ],
)
def test_a_damaged_configuration_gives_one_line(monkeypatch, tmp_path, content, says):
    file = tmp_path / "config"
    file.write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(ClusterError) as caught:
        connect()
    text = str(caught.value)
    assert text.startswith(f"{file} is not the configuration file of a cluster ({says}); expected a file that `kubectl")
    assert "\n" not in text
    assert "s3cret" not in text


def test_an_expired_login_is_told_as_such(kubernetes):
    kubernetes.away = 401
    with pytest.raises(ClusterError, match=r"does not accept the login \(401\); .*; log in to the cluster again"):
        connect().pods("any")
