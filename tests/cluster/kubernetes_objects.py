"""TrainJobs, pods and events as a cluster shows them, field by field as in `recorded/`."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

KINDS = {"TrainJob": "trainer.kubeflow.org/v1alpha1", "JobSet": "jobset.x-k8s.io/v1alpha2", "Job": "batch/v1"}
# Reasons whose events are of the newer interface: with an action and a time in fractions of seconds.
NEWER = {
    "FailedScheduling": "Scheduling",
    "FailedJobs": "Reconciling",
    "TrainJobResourcesCreationFailed": "Reconciling",
}
COUNTS = ("active", "failed", "ready", "succeeded", "suspended")
PLACES = {"mountPath": "/dev/shm", "name": "cliptea-shm"}, {"mountPath": "/tmp", "name": "cliptea-tmp"}
RESOURCES = {"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "200m", "memory": "1Gi"}}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def metadata(name: str, **more: Any) -> dict[str, Any]:
    """What every object has."""
    own = {"name": name, "namespace": "team", "uid": str(uuid.uuid4()), "resourceVersion": "1"}
    return own | {"creationTimestamp": now()} | more


def train_job(sent: dict[str, Any]) -> dict[str, Any]:
    """A TrainJob as it was sent, with what the server adds."""
    added = {"managedBy": "trainer.kubeflow.org/trainjob-controller", "suspend": False}
    own = sent["metadata"]
    job = sent | {"metadata": metadata(**own, generation=1), "spec": sent["spec"] | added}
    return job | {"status": status(active=1, ready=1)}


def status(*conditions: dict[str, Any], **counts: int) -> dict[str, Any]:
    """Of a TrainJob whose only job is `node`."""
    jobs = [{"name": "node"} | {count: counts.get(count, 0) for count in COUNTS}]
    return {"jobsStatus": jobs} | ({"conditions": list(conditions)} if conditions else {})


def condition(kind: str, value: str, reason: str, message: str) -> dict[str, Any]:
    """Of a TrainJob."""
    return {"type": kind, "status": value, "reason": reason, "message": message, "lastTransitionTime": now()}


def training_pod(job: str, name: str, phase: str, index: int, **changed: Any) -> dict[str, Any]:
    """A pod of a TrainJob, of its only job."""
    digits = {"job-global-index": "0", "job-group-index": "0", "job-index": "0", "restart-attempt": "0"}
    of_jobset = digits | {
        "jobset-name": job,
        "replicatedjob-name": "node",
        "replicatedjob-replicas": "1",
        "global-replicas": "1",
        "group-name": "default",
        "group-replicas": "1",
        "job-key": "7a50fbef1c9be1be26ef22a5d02708e21a7ff364",
        "jobset-uid": str(uuid.uuid4()),
    }
    shared = {f"jobset.sigs.k8s.io/{key}": value for key, value in of_jobset.items()}
    shared["batch.kubernetes.io/job-completion-index"] = str(index)
    labels = shared | {
        "app.kubernetes.io/component": "trainer",
        "app.kubernetes.io/part-of": "cliptea",
        "batch.kubernetes.io/controller-uid": "u",
        "batch.kubernetes.io/job-name": f"{job}-node-0",
        "controller-uid": "u",
        "job-name": f"{job}-node-0",
        "jobset.sigs.k8s.io/priority": "0",
        "sidecar.istio.io/inject": "false",
    }
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"{job}-node-0", "uid": "u"}
    owned = {
        "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        "finalizers": ["batch.kubernetes.io/job-tracking"],
        "generateName": f"{job}-node-0-{index}-",
        "generation": 1,
    }
    return {
        "metadata": metadata(name, labels=labels, annotations=shared, **owned),
        "status": pod_status(phase) | changed,
    }


def pod_status(phase: str) -> dict[str, Any]:
    """Of a pod that waits for its container, runs, or whose process has ended with 0 or 1."""
    runs, failed = phase == "Running", {"reason": "PodFailed"} if phase == "Failed" else {}
    done = {"reason": "PodCompleted"} if phase == "Succeeded" else failed
    states: dict[str, tuple[bool, dict[str, str]]] = {
        "PodReadyToStartContainers": (runs, {}),
        "Initialized": (True, {}),
        "Ready": (runs, done),
        "ContainersReady": (runs, done),
        "PodScheduled": (True, {}),
    }
    if runs:
        state: dict[str, Any] = {"running": {"startedAt": now()}}
    elif phase == "Pending":
        state = {"waiting": {"reason": "ContainerCreating"}}
    else:
        state = terminated(0 if phase == "Succeeded" else 1)
    return {
        "phase": phase,
        "conditions": [
            {
                "type": kind,
                "status": str(on),
                "lastTransitionTime": now(),
            }
            | why
            for kind, (on, why) in states.items()
        ],
        "containerStatuses": [container(state)],
        "hostIP": "192.0.2.2",
        "hostIPs": [{"ip": "192.0.2.2"}],
        "podIP": "10.244.0.14",
        "podIPs": [{"ip": "10.244.0.14"}],
        "qosClass": "Burstable",
        "startTime": now(),
    }


def container(state: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """The status of the container that trains."""
    own: dict[str, Any] = {
        "name": "node",
        "image": "i:1",
        "imageID": "sha256:0",
        "containerID": "containerd://0",
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
        "lastState": {},
        "allocatedResources": RESOURCES["requests"],
        "resources": RESOURCES,
        "volumeMounts": list(PLACES),
    }
    return own | changed


def terminated(code: int, reason: str = "") -> dict[str, Any]:
    """The state of a container whose process has ended."""
    times = {"startedAt": now(), "finishedAt": now(), "containerID": "containerd://0"}
    return {"terminated": {"exitCode": code, "reason": reason or ("Error" if code else "Completed")} | times}


def deleted(item: dict[str, Any]) -> dict[str, Any]:
    """A pod or a TrainJob that has been told to go, and is not gone yet."""
    kept = {key: value for key, value in item["metadata"].items() if key != "finalizers"}
    return item | {"metadata": kept | {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30}}


def event(reason: str, message: str, name: str, kind: str = "Pod") -> dict[str, Any]:
    """A warning, of either interface, as its reason tells."""
    about = {"kind": kind, "name": name, "namespace": "team", "apiVersion": KINDS.get(kind, "v1")}
    shared = {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": metadata(f"{name}.{uuid.uuid4().hex[:16]}"),
        "involvedObject": about | {"resourceVersion": "1", "uid": "u"},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "reportingComponent": "controller",
    }
    if reason in NEWER:
        fine = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        newer = {"eventTime": fine, "source": {}}
        return shared | newer | {"action": NEWER[reason], "reportingInstance": "controller-0"}
    older = {"firstTimestamp": now(), "lastTimestamp": now(), "source": {"component": "controller"}}
    return shared | older | {"count": 1, "reportingInstance": ""}


def workload(job: dict[str, Any], *conditions: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """What Kueue makes of a TrainJob that names the queue `default`. Without the pods."""
    own = job["metadata"]
    owner = {"apiVersion": KINDS["TrainJob"], "kind": "TrainJob", "name": own["name"], "uid": own["uid"]}
    meta = metadata(
        f"trainjob-{own['name']}-913e5",
        labels={"kueue.x-k8s.io/job-uid": own["uid"]},
        ownerReferences=[owner | {"controller": True, "blockOwnerDeletion": True}],
        finalizers=["kueue.x-k8s.io/resource-in-use"],
        generation=1,
    )
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": meta,
        "spec": {"active": True, "podSets": "...", "priority": 0, "queueName": "default"} | spec,
        "status": {"conditions": list(conditions)},
    }
