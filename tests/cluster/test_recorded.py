"""What the fake cluster shows has the fields, states and reasons that a cluster has shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster.kubernetes_objects import condition
from lives import NAME, ended

from cliptea.cluster.job import RUN_LABEL, build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import connect

RECORDED = Path(__file__).with_name("recorded")
# Fields whose values are compared; of all others it is compared whether they are there, and of what type.
TOLD = {"type", "status", "reason", "phase", "exitCode", "ready", "started", "restartCount", "suspend", "active"}
TOLD |= {"failed", "succeeded", "suspended", "managedBy", "qosClass", "controller", "finalizers", "action", "kind"}
# Kueue's labels, and names of things that are this cluster's own.
OWN = {"kueue.x-k8s.io/cluster-queue-name", "kueue.x-k8s.io/local-queue-name", "kueue.x-k8s.io/podset"}
OWN |= {"kueue.x-k8s.io/workload", "kueue.x-k8s.io/queue-name"}


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text())


def shape(item: Any, name: str = "") -> Any:
    """An object without what differs from one to the other."""
    if isinstance(item, dict):
        return {key: shape(value, key) for key, value in item.items() if key not in OWN}
    if isinstance(item, list):
        listed = [shape(value, name) for value in item]
        return sorted(listed, key=lambda one: json.dumps(one, sort_keys=True))
    return item if name in TOLD else type(item).__name__


@pytest.fixture
def made(kubernetes):
    """The fake, with the TrainJob of a student of a pipeline run."""
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    connect().create(build("j", "g/a", "k", JobSettings(image="i:1", nodes=2), Passed(), [owner]))
    return kubernetes


def evicted(server):
    server.suspend()


def readmitted(server):
    server.suspend()
    server.suspend(False)


LIVES = {
    "running": lambda server: None,
    "suspended": evicted,
    "evicted": evicted,
    "readmitted": readmitted,
    "failed": lambda server: server.end("Failed"),
}


@pytest.mark.parametrize("state", LIVES)
def test_trainjobs(made, state):
    LIVES[state](made)
    (shown,), true = made.jobs.values(), recorded("trainjobs.json")[state]
    assert set(LIVES) == set(recorded("trainjobs.json"))
    assert shape(shown["status"]) == shape(true["status"])
    assert set(shown["spec"]) == set(true["spec"])
    assert shown["spec"]["suspend"] == true["spec"]["suspend"]
    ours = shape(shown["metadata"])
    assert ours["labels"].pop(RUN_LABEL) == "str"  # which TrainJobs had not yet
    assert ours == shape(true["metadata"])
    words = [condition["message"] for condition in shown["status"].get("conditions", [])]
    true_words = [condition["message"] for condition in true["status"].get("conditions", [])]
    assert [text.replace(NAME, true["metadata"]["name"]) for text in words] == true_words


DEACTIVATED = [
    condition("Evicted", "True", "Deactivated", "The workload is deactivated"),
    condition("Admitted", "False", "NoReservation", "The workload has no reservation"),
    condition("Requeued", "False", "Deactivated", "The workload is deactivated"),
]
WAITS = {
    "pending": lambda server: server.queued("ClusterQueue t8 is inactive"),
    "deactivated": lambda server: server.queued("LocalQueue default doesn't exist", *DEACTIVATED, active=False),
}


@pytest.mark.parametrize("state", WAITS)
def test_workloads(made, state):
    WAITS[state](made)
    (shown,), true = made.workloads, recorded("workloads.json")[state]
    assert shape(shown["metadata"]) == shape(true["metadata"])
    assert shown["spec"].items() == true["spec"].items()
    assert shape(shown["status"]["conditions"]) == shape(true["status"]["conditions"])
    words = {found["type"]: found["message"] for found in shown["status"]["conditions"]}
    assert words == {found["type"]: found["message"] for found in true["status"]["conditions"]}


@pytest.mark.parametrize("index", [0, 1])
def test_pods_that_run(made, index):
    made.pod("p", index=index)
    assert shape(made.pods[0]) == shape(recorded("training_pods.json")["running"][index])


@pytest.mark.parametrize("index", [0, 1])
def test_pods_that_are_told_to_go_and_have_stopped(made, index):
    made.pod("p", "Failed", index, **ended(75))
    made.deleting("p")
    assert shape(made.pods[0]) == shape(recorded("training_pods.json")["evicted"][index])


@pytest.mark.parametrize("true", recorded("trainjob_events.json"), ids=lambda event: event["reason"])
def test_events(made, true):
    about = true["involvedObject"]
    made.event(true["reason"], true["message"], about["name"], about["kind"])
    assert shape(made.events[0]) == shape(true)
    assert made.events[0]["involvedObject"]["apiVersion"] == about["apiVersion"]
