"""What belongs to a pipeline run in a cluster: its TrainJobs, and the pods of its steps."""

import json
from pathlib import Path

import pytest

from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import ClusterError, connect

RUN = "0f51c788-780a-4dbc-b5f8-98ceb3b093b6"
TRAINJOBS = ("list", "trainer.kubeflow.org", "trainjobs")


def step_pod(name, created="2026-11-25T21:45:14Z", spec=None, **status):
    """A recorded pod of a step, changed."""
    pod = json.loads(Path(__file__).with_name("recorded").joinpath("step_pod.json").read_text())
    pod["metadata"] |= {"name": name, "creationTimestamp": created}
    pod["status"] |= status
    return pod | ({"spec": {"containers": [{"name": "main"}], **spec}} if spec else {})


def test_the_trainjobs_of_a_run(kubernetes):
    kubernetes.granted = None  # the user's own rights
    cluster = connect()
    for job_id, label in ((RUN, "g/a"), (RUN, "g/b"), ("other", "g/a")):
        cluster.create(build(job_id, label, "k", JobSettings(image="i:1"), Passed(), []))
    assert [job["metadata"]["annotations"]["cliptea/variant"] for job in cluster.jobs(RUN)] == ["g/a", "g/b"]
    assert cluster.jobs("none") == []


def test_the_step_may_not_list_trainjobs(kubernetes):
    assert TRAINJOBS not in kubernetes.granted
    with pytest.raises(ClusterError, match="may not list trainjobs in namespace team"):
        connect().jobs(RUN)


def test_the_pods_of_a_run_and_what_they_wait_for(kubernetes):
    lacking = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "1 Insufficient cpu."}
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
    gates = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}
    main = step_pod("x")["status"]["containerStatuses"][0] | {"ready": False, "started": False}
    pulling = main | {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    creating = main | {"state": {"waiting": {"reason": "ContainerCreating"}}}
    kubernetes.pods = [
        step_pod("new", "2026-11-25T22:00:00Z"),
        step_pod("old"),
        step_pod("gated", spec=gates, phase="Pending", conditions=[gated], containerStatuses=[]),
        step_pod("unplaced", phase="Pending", conditions=[lacking], containerStatuses=[]),
        step_pod("pulling", phase="Pending", containerStatuses=[pulling]),
        step_pod("creating", phase="Pending", containerStatuses=[creating]),
    ]
    other = step_pod("other")
    other["metadata"]["labels"]["pipeline/runid"] = "another"
    kubernetes.pods.append(other)
    found = connect().step_pods(RUN)
    assert found[-1].name == "new"
    assert found[-1].node.endswith(".launch(0).executor(0)")
    said = {pod.name: (pod.phase, pod.waits) for pod in found}
    assert said == {
        "old": ("Running", ""),
        "new": ("Running", ""),
        "gated": (
            "Pending",
            "waiting to be admitted: scheduling gate kueue.x-k8s.io/admission; check the queue named in its label",
        ),
        "unplaced": ("Pending", "no node can run it: 1 Insufficient cpu.; waiting for one"),
        "pulling": (
            "Pending",
            "the image docker.io/library/cliptea:0.1.0 cannot be pulled: no such image; check its name and the pull "
            "secret",
        ),
        "creating": ("Pending", "ContainerCreating"),
    }
