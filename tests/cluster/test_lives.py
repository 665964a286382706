"""Whole lives of TrainJobs of two nodes: how many are made and deleted, and how the step ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster.kubernetes_objects import condition, container, terminated
from lives import NAME, complete, ended, follow, nothing, script
from quick_pace import Quick

from cliptea.cluster.job import QUEUE
from cliptea.cluster.kubernetes_api import ClusterError

DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
NODE_LOST = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "node is gone"}
EVICTED = "evicted from its node or preempted: drained"
GONE = "p1: it disappeared while it was running: it was deleted, or its node was lost"
AGAIN = "restarting from its last checkpoint"
LONG = 80  # looks, which take longer than a second


def two(server):
    """Both pods run."""
    server.pod("p0")
    server.pod("p1", index=1)


def pending(server):
    server.pod("p0", "Pending")
    server.pod("p1", "Pending", index=1)


def fails(*left, **codes):
    """The TrainJob fails: pods of `codes` have ended, those of `left` are deleted, and all others are gone."""

    def act(server):
        for name, code in codes.items():
            status = code if isinstance(code, dict) else ended(code)
            server.pod(name, "Failed", int(name[1:]), **status)
        names = {pod["metadata"]["name"] for pod in server.pods}
        server.gone(*(names - set(codes) - set(left)))
        server.deleting(*left)
        server.end("Failed")

    return act


def suspended(server):
    """Kueue evicts it, or has not admitted it: its pods stop, and go."""
    server.suspend()
    server.gone("p0", "p1")


def stopping(server):
    server.suspend()
    for index in (0, 1):
        server.pod(f"p{index}", "Failed", index, **ended(75))
    server.deleting("p0", "p1")


def admitted(server):
    server.suspend(False)


def gated(server):
    """Its pods are there, and a queue has not yet chosen nodes for them."""
    gate = {"name": "kueue.x-k8s.io/topology"}
    blocked = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "non-empty gates"}
    for index in (0, 1):
        server.pod(f"p{index}", "Pending", index)
        server.pods[-1] |= {"spec": {"containers": [{"name": "node"}], "schedulingGates": [gate]}}
        server.pods[-1]["status"] = {"phase": "Pending", "conditions": [blocked]}


def pod_goes(server):
    """One pod is deleted by force, and nobody has taken note yet."""
    server.gone("p1")


def stopped_by_deletion(server):
    """After one pod is gone, its partner was killed while it waited for it."""
    server.gone("p1")
    server.pod("p0", "Failed", **ended(137))
    server.deleting("p0")
    server.end("Failed")


def oom(name):
    return fails(**{name: {"containerStatuses": [container(terminated(137, "OOMKilled"))]}})


def conditions(**told):
    return {name: {"conditions": [condition], **ended(code)} for name, (condition, code) in told.items()}


# Acts, settings, how many TrainJobs are made and deleted, and the error, if it is one.
LIVES = {
    "success": ([pending, two, complete], {}, 1, 0, None),
    # The Job deletes the partners of a pod that fails: they are gone, and nothing is lost.
    "code fails, partner gone": ([two, fails(p0=1)], {}, 1, 0, "p0: its process ended with code 1"),
    "code fails, partner deserted": ([two, fails(p0=76, p1=1)], {}, 1, 0, "p1: its process ended with code 1"),
    "code fails, partner deleted": ([two, fails("p1", p0=1)], {}, 1, 0, "p0: its process ended with code 1"),
    "code fails at once": ([fails(p0=1)], {}, 1, 0, "p0: its process ended with code 1"),
    "code fails between two looks": ([pending, fails(p1=1)], {}, 1, 0, "p1: its process ended with code 1"),
    "out of memory": ([two, oom("p0")], {}, 1, 0, r"p0: it ran out of memory \(OOMKilled\)"),
    "out of memory, partner deserted": (
        [two, fails(p0=76, p1=ended(137, "OOMKilled"))], {}, 1, 0, "p1: it ran out of memory"
    ),
    "evicted": ([two, fails(**conditions(p1=(DISRUPTED, 75)), p0=75), two, complete], {}, 2, 1, None),
    "evicted without end": ([two, fails(**conditions(p1=(DISRUPTED, 75)))] * 3, {"restarts": 2}, 3, 2, EVICTED),
    "one deleted by force": ([two, fails(), two, complete], {}, 2, 1, None),
    "one deleted by force, its partner deserted": ([two, fails(p0=76), two, complete], {}, 2, 1, None),
    "one deleted by force, its partner stopped": ([two, pod_goes, fails(p0=75), two, complete], {}, 2, 1, None),
    "one deleted by force, its partner killed": ([two, stopped_by_deletion, two, complete], {}, 2, 1, None),
    "one deleted by force, its partner on its way out": ([two, pod_goes, fails("p0"), two, complete], {}, 2, 1, None),
    "one deleted by force, no restart allowed": ([two, pod_goes, fails("p0")], {"restarts": 0}, 1, 0, GONE),
    "deleted by force without end": ([two, fails()] * 4, {"restarts": 3}, 4, 3, "p0: it disappeared while"),
    "the first pod deserted between two looks": ([pending, fails(p0=76), two, complete], {}, 2, 1, None),
    "node lost": ([two, fails(**conditions(p1=(NODE_LOST, 137)), p0=76), two, complete], {}, 2, 1, None),
    "node lost, its pod still shown": ([two, fails("p1", p0=76), two, complete], {}, 2, 1, None),
    "pods that never ran are gone": ([pending, fails()], {}, 1, 0, "failed: jobset failed due to one or more job"),
    "suspended, admitted": ([suspended, suspended, admitted, two, complete], {}, 1, 0, None),
    "evicted by Kueue twice": (
        [suspended, admitted, two, stopping, suspended, admitted, two, stopping, suspended, admitted, two, complete],
        {}, 1, 0, None,
    ),
    "evicted by Kueue, then its code fails": (
        [two, stopping, suspended, admitted, two, fails(p0=1)], {}, 1, 0, "p0: its process ended with code 1"
    ),
    "evicted by Kueue, fails before its pods run": (
        [two, suspended, admitted, pending, fails()], {}, 1, 0, "failed: jobset failed due to"
    ),
    "suspended for longer than it may be pending": (
        [suspended] * LONG + [admitted, two, complete], {"pending_seconds": 1}, 1, 0, None
    ),
    "evicted by Kueue for longer than it may be pending": (
        [two] + [suspended] * LONG + [admitted, two, complete], {"pending_seconds": 1}, 1, 0, None
    ),
    "gated for longer than it may be pending": ([gated] * LONG + [two, complete], {"pending_seconds": 1}, 1, 0, None),
    "admitted, and then pending for long": (
        [suspended] * LONG + [admitted, pending], {"pending_seconds": 1}, 1, 1, "did not start within .* 0 of 2 pods"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("acts", "settings", "made", "deleted", "error"), LIVES.values(), ids=LIVES)
def test_a_life(kubernetes, capfd, acts, settings, made, deleted, error):
    kubernetes.play = script(*acts)
    if error is None:
        follow(nodes=2, **settings)
    else:
        with pytest.raises(ClusterError, match=error):
            follow(nodes=2, **settings)
    assert (len(kubernetes.created), len(kubernetes.deleted)) == (made, deleted)
    given_up = error is not None and "pending_seconds" in settings
    assert capfd.readouterr().err.count(AGAIN) == made - 1 == deleted - given_up


def test_the_next_try_adopts_what_a_killed_one_leaves(kubernetes):
    """A follower that is killed (SIGKILL) deletes nothing; the step is run again and goes on with its TrainJob."""
    kubernetes.play = script(nothing, two)
    code = "from cluster.lives import follow; follow(nodes=2)"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not kubernetes.pods and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    first.wait()
    assert (list(kubernetes.jobs), kubernetes.deleted) == ([NAME], [])
    kubernetes.play = script(two, complete)
    follow(nodes=2)
    assert (len(kubernetes.created), kubernetes.deleted) == (1, [])


def test_each_suspension_is_told_once(kubernetes, capfd):
    acts = [suspended] * 5 + [admitted, two, two] + [stopping, suspended, suspended] + [admitted, two, complete]
    kubernetes.play = script(*acts)
    follow(nodes=2)
    said = capfd.readouterr().err.splitlines()
    assert sum("suspended, waiting to be admitted" in line for line in said) == 2


def queued(message):
    def act(server):
        server.queued(message)
        server.gone("p0", "p1")

    return act


FULL = (
    "couldn't assign flavors to pod set node: insufficient unused quota for nvidia.com/gpu in flavor f, 4 more needed"
)
WAITING = f"warning: {NAME}: suspended, waiting to be admitted: "


def test_what_the_queue_says_is_told_once_for_each_change(kubernetes, capfd):
    acts = [queued("ClusterQueue t8 is inactive")] * 3 + [queued(FULL)] * 3 + [admitted, two]
    kubernetes.play = script(*acts, *[queued(FULL)] * 3, admitted, two, complete)
    follow(nodes=2)
    said = [line for line in capfd.readouterr().err.splitlines() if "suspended" in line]
    full = f"{WAITING}queue default: {FULL}"
    assert said == [f"{WAITING}queue default: ClusterQueue t8 is inactive", full, full]


def test_an_eviction_is_told_with_what_it_waits_for(kubernetes, capfd):
    evicted = condition("Evicted", "True", "Deactivated", "The workload is deactivated")

    def deactivated(server):
        server.queued("LocalQueue default doesn't exist", evicted, active=False)

    kubernetes.play = script(deactivated, admitted, two, complete)
    follow(nodes=2)
    words = "queue default: LocalQueue default doesn't exist; The workload is deactivated"
    assert f"{WAITING}{words}\n" in capfd.readouterr().err


def test_a_queue_that_may_not_be_read_is_not_needed(kubernetes, capfd):
    kubernetes.denied = {("list", "workloads")}
    kubernetes.play = script(queued(FULL), admitted, two, complete)
    follow(nodes=2)
    assert f"{WAITING}TrainJob is suspended\n" in capfd.readouterr().err


def test_a_queue_that_has_just_admitted_it_is_not_quoted(kubernetes, capfd):
    def reserved(server):
        server.queued(FULL)
        server.workloads[0]["status"]["conditions"] = [condition("QuotaReserved", "True", "QuotaReserved", "reserved")]

    kubernetes.play = script(queued(FULL), reserved, admitted, two, complete)
    follow(nodes=2)
    said = [line for line in capfd.readouterr().err.splitlines() if "suspended" in line]
    assert said == [f"{WAITING}queue default: {FULL}"]


def test_admission_checks_are_named_until_they_are_ready(kubernetes, capfd):
    def checked(state, message):
        def act(server):
            server.queued(FULL)
            status = server.workloads[0]["status"]
            status["conditions"] = [condition("QuotaReserved", "True", "QuotaReserved", "reserved")]
            status["admissionChecks"] = [{"name": "nodes", "state": state, "message": message}]

        return act

    waits, ready = checked("Pending", "no capacity yet"), checked("Ready", "")
    kubernetes.play = script(waits, waits, ready, ready, admitted, two, complete)
    follow(nodes=2)
    said = [line for line in capfd.readouterr().err.splitlines() if "suspended" in line]
    assert said == [f"{WAITING}queue default: admission check nodes: no capacity yet"]


class Noticing(Quick):
    unnoticed = 0.3


QUEUED = {QUEUE: "gpu"}


def test_a_job_that_kueue_does_not_take_up_is_told_once_it_had_its_time(kubernetes, capfd):
    told = []

    def at_first(server):
        server.suspend()
        told.append(capfd.readouterr().err)

    kubernetes.play = script(*[at_first] * 60, admitted, two, complete)
    follow(Noticing, nodes=2, labels=QUEUED)
    assert "suspended" not in "".join(told[:3])
    words = "Kueue has not taken it up; check whether the queue gpu and the priority class in its labels exist"
    assert "".join(told).count(f"{WAITING}{words}\n") == "".join(told).count("suspended") == 1


@pytest.mark.parametrize(("broken", "words"), [(False, ""), (True, "TrainJob is suspended")])
def test_a_job_that_kueue_takes_up_in_time_is_no_trouble(kubernetes, capfd, broken, words):
    """Unless nobody knows, because the request for its Workload fails."""
    kubernetes.broken = {"workloads"} if broken else set()
    kubernetes.play = script(suspended, suspended, admitted, two, complete)
    follow(nodes=2, labels=QUEUED)
    said = [line for line in capfd.readouterr().err.splitlines() if "suspended" in line]
    assert said == ([f"{WAITING}{words}"] if words else [])


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_broken_queue_hides_no_end(kubernetes, end):
    def over(server):
        server.suspend()
        server.end(end)
        server.jobs[NAME]["spec"]["suspend"] = True

    kubernetes.broken = {"workloads"}
    kubernetes.play = script(suspended, over)
    if end == "Complete":
        follow(nodes=2)
    else:
        with pytest.raises(ClusterError, match="failed: jobset failed due to"):
            follow(nodes=2)
    assert ("list", "kueue.x-k8s.io", "workloads") in kubernetes.requests


class Patient(Quick):
    again = 1.0


def test_numbers_in_a_queues_words_are_no_news_and_news_come_at_intervals(kubernetes, capfd):
    few, many = FULL, FULL.replace("4 more", "12 more")
    inactive = "ClusterQueue t8 is inactive"
    acts = [*[queued(few), queued(many)] * 20, *[queued(inactive), queued(few)] * 5, *[queued(inactive)] * 60]
    kubernetes.play = script(*acts, admitted, two, complete)
    start = time.monotonic()
    follow(Patient, nodes=2)
    said = [line.removeprefix(f"{WAITING}queue default: ") for line in capfd.readouterr().err.splitlines()]
    told = [line for line in said if line in (few, many, inactive)]
    assert (told[0], many in told) == (few, False)
    assert 2 <= len(told) <= 1 + (time.monotonic() - start)
    assert told[-1] == inactive


def test_a_trouble_that_comes_back_is_told_again_and_never_twice_while_it_lasts(kubernetes, capfd):
    lacking = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}

    def unplaced(server):
        server.pod("p0", "Pending", conditions=[lacking])

    kubernetes.play = script(*[unplaced] * 4, two, two, *[unplaced] * 4, two, complete)
    follow(nodes=2)
    assert capfd.readouterr().err.count("p0: no node can run it: 0/1 nodes") == 2
