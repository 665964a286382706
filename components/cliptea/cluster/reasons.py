"""Explains why a TrainJob waits or failed, from its conditions, pods and events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from cliptea.cluster.job import QUEUE
from cliptea.exit_codes import ExitCode

__all__ = [
    "AGAIN", "CAUSES", "QUOTA", "StepPod", "Trouble", "failed", "finished", "gated", "hopeless", "step_pod",
    "suspended", "timed_out", "troubles",
]  # fmt: skip

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
# What registries and nodes say of an image that they will never give. Anything else may pass, such as a rate limit.
NO_IMAGE = (
    "not found", "not present", "manifest unknown", "name unknown", "does not exist", "no match", "reference format",
    "unauthorized", "authorization failed", "denied", "forbidden", "authentication required", "no basic auth",
    "unknown authority",
)  # fmt: skip
CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
LOST = ("Evicted", "NodeLost", "Shutdown", "Preempting")  # reasons of pods
# Reasons of pods that a node rejected, also after its restart, or ended when it shut down. OutOfcpu and the like belong
# here too.
REFUSED = ("NodeAffinity", "NodeShutdown", "Terminated", "UnexpectedAdmissionError")
HOPELESS = ("image", "settings", "forbidden")  # kinds that need a fix by the user
NOT_CREATED = ("FailedCreate", "JobCreationFailed", "TrainJobResourcesCreationFailed")  # reasons of events
# Kinds that the cluster caused, so that the same TrainJob may succeed later.
AGAIN = ("lost", "gone", "deserted", "halted", "stopped")
# Kinds that make a TrainJob fail, with the most likely first. After a failure of the code, the failed pod stays and the
# other pods are deleted. So "exit" comes before "gone".
CAUSES = ("memory", "lost", "exit", "gone", "halted", "deserted", "stopped", *HOPELESS)
QUOTA = "exceeded quota"  # part of the message if a ResourceQuota rejects a request
# Exit codes of training: the kind of trouble, and what it means.
ENDINGS = {
    ExitCode.RESTART: ("stopped", "it was stopped on request and saved a checkpoint"),
    ExitCode.DESERTED: ("deserted", "the processes of other pods disappeared, or a server was unreachable"),
    ExitCode.STALLED: (
        "halted",
        "it made no progress for a long time and was stopped; its log shows the stacks",
    ),
}
KILLED, ENDED = 137, 143  # exit codes of a container after SIGKILL or SIGTERM


class Trouble(NamedTuple):
    """A problem of a TrainJob."""

    # node, quota, image, settings, forbidden, memory, lost, gone, halted, deserted, stopped, exit, suspended or other
    kind: str
    where: str  # the pod, or the TrainJob
    text: str  # what is wrong, and how to fix it


class StepPod(NamedTuple):
    """A pod of a pipeline step, or of the driver before it."""

    name: str
    node: str  # in the workflow, such as "cliptea-x(0).root(0).exit-handler-1(0).resolve(0).executor(0)"
    phase: str  # Pending, Running, Succeeded or Failed
    waits: str  # what the pod waits for, or ""


def finished(job: dict[str, Any]) -> bool:
    """Whether a TrainJob has succeeded."""
    return _condition(job, "Complete") is not None


def failed(job: dict[str, Any]) -> str | None:
    """Why a TrainJob failed, according to its controller. None if it has not failed."""
    condition = _condition(job, "Failed")
    if condition is None:
        return None
    if timed_out(job):
        return "it took longer than steps.train.seconds in the placement file, and left a checkpoint to resume from"
    return condition.get("message") or condition.get("reason") or "no reason given"


def timed_out(job: dict[str, Any]) -> bool:
    """Whether the cluster stopped a TrainJob because of its time limit. Its pods then look as if they were lost."""
    return (_condition(job, "Failed") or {}).get("reason") == "DeadlineExceeded"


def suspended(job: dict[str, Any]) -> bool:
    """Whether a TrainJob is suspended, so that its pods are deleted. The condition is false after it is resumed."""
    return bool(job["spec"].get("suspend")) or _condition(job, "Suspended") is not None


def hopeless(trouble: Trouble) -> bool:
    """Whether only the user can fix it. A registry that is away or busy may give the image later."""
    told = trouble.text.lower()
    return trouble.kind in HOPELESS and (trouble.kind != "image" or any(words in told for words in NO_IMAGE))


def gated(pod: dict[str, Any]) -> bool:
    """Whether a queue holds a pod, so that the cluster does not look for a node yet."""
    return bool(pod.get("spec", {}).get("schedulingGates"))


def step_pod(pod: dict[str, Any]) -> StepPod:
    """A summary of the pod of a step."""
    metadata, status = pod["metadata"], pod.get("status", {})
    states = [(container, container.get("state", {}).get("waiting")) for container in _containers(status)]
    held = [_waiting(container, state) or ("", state.get("reason", "")) for container, state in states if state]
    waits = _unplaced(pod) or next((text for _, text in held), "")
    node = metadata.get("annotations", {}).get("workflows.argoproj.io/node-name", "")
    return StepPod(metadata["name"], node, status.get("phase", ""), waits)


def troubles(
    job: dict[str, Any],
    pods: list[dict[str, Any]],
    events: list[dict[str, Any]],
    workload: dict[str, Any] | None = None,
    late: bool = False,
) -> list[Trouble]:
    """All current problems of a TrainJob.

    Args:
        events: warnings about the TrainJob and all objects that were created for it.
        workload: the answer of `Cluster.workload` for a suspended TrainJob.
        late: whether Kueue has had enough time to notice the TrainJob.
    """
    found = [trouble for pod in pods for trouble in _of_pod(pod)]
    name = job["metadata"]["name"]
    if suspended(job) and (message := _waits_for(job, workload, late)):
        found.append(Trouble("suspended", name, f"suspended, waiting to be admitted: {message}"))
    since = _second(job["metadata"].get("creationTimestamp"))  # an earlier TrainJob may have had the same name
    recent = [event for event in events if _last_seen(event) >= since and not _overcome(event, job, pods)]
    return found + [trouble for event in recent if (trouble := _of_event(event)) is not None]


def _overcome(event: dict[str, Any], job: dict[str, Any], pods: list[dict[str, Any]]) -> bool:
    """Whether pods have been created since a warning that they cannot be. Kubernetes lists events for an hour."""
    if event.get("reason") not in NOT_CREATED:
        return False
    created = [_second(pod["metadata"].get("creationTimestamp")) for pod in pods]
    nodes = job["spec"].get("trainer", {}).get("numNodes", 1)
    return len(created) >= nodes or _last_seen(event) <= max(created, default="")


def _last_seen(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    return _second(event.get("lastTimestamp") or series.get("lastObservedTime") or event.get("eventTime"))


def _waits_for(job: dict[str, Any], workload: dict[str, Any] | None, late: bool) -> str:
    """What a suspended TrainJob waits for. "" if that is not known yet, or if it was just admitted."""
    told = (_condition(job, "Suspended") or {}).get("message", "")
    queue = job["metadata"].get("labels", {}).get(QUEUE)
    if workload:
        reserved = _condition(workload, "QuotaReserved") is not None
        return _queued(workload) or (told if late and not reserved else "")
    if workload is None or queue is None:
        return told
    text = f"Kueue has not taken it up; check whether the queue {queue} and the priority class in its labels exist"
    return text if late else ""


def _queued(workload: dict[str, Any]) -> str:
    """What a job waits for in its queue, and why it lost its place, in Kueue's words. "" if it was just admitted."""
    waits = _condition(workload, "QuotaReserved", "False") or _condition(workload, "Admitted", "False")
    words = [condition.get("message", "") for condition in (waits, _condition(workload, "Evicted")) if condition]
    checks = workload.get("status", {}).get("admissionChecks") or []
    if _condition(workload, "QuotaReserved"):
        open_checks = [check for check in checks if check.get("state") != "Ready"]
        words += [f"admission check {check['name']}: {check.get('message') or check['state']}" for check in open_checks]
    queue = workload["spec"].get("queueName", "")
    return f"queue {queue}: {'; '.join(words)}" if words else ""


def _of_pod(pod: dict[str, Any]) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    unplaced, disrupted = _unplaced(pod), _condition(pod, "DisruptionTarget")
    if unplaced:
        yield Trouble("node", name, unplaced)
    for container in _containers(status):
        state = container.get("state", {})
        trouble = _waiting(container, state.get("waiting") or {}) or _terminated(
            state.get("terminated") or container.get("lastState", {}).get("terminated") or {}, pod
        )
        if trouble is not None:
            yield Trouble(trouble[0], name, trouble[1])
    reason = status.get("reason", "")  # last, because it says more than that a container is lost
    why = status.get("message") or (disrupted or {}).get("message") or reason
    if reason in LOST or disrupted is not None:
        yield Trouble("lost", name, f"evicted from its node or preempted: {why}")
    elif reason in REFUSED or reason.startswith("OutOf"):
        yield Trouble("lost", name, f"its node did not take it, shut down or restarted: {why}")


def _containers(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _unplaced(pod: dict[str, Any]) -> str:
    """Why a pod has no node yet, or ""."""
    if gated(pod):
        gates = [gate["name"] for gate in pod["spec"]["schedulingGates"]]
        return f"waiting to be admitted: scheduling gate {' and '.join(gates)}; check the queue named in its label"
    scheduled = _condition(pod, "PodScheduled", "False") or {}
    if scheduled.get("reason") == "Unschedulable":
        return f"no node can run it: {scheduled.get('message', '')}; waiting for one"
    return ""


def _waiting(container: dict[str, Any], waiting: dict[str, Any]) -> tuple[str, str] | None:
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in PULL:
        image = container.get("image", "")
        return "image", f"the image {image} cannot be pulled: {message or reason}; check its name and the pull secret"
    if reason in CONFIG:
        return "settings", f"its container cannot be created: {message or reason}; check secrets and config maps"
    return None


def _terminated(ended: dict[str, Any], pod: dict[str, Any]) -> tuple[str, str] | None:
    code, reason = ended.get("exitCode", 0), ended.get("reason", "")
    if reason == "OOMKilled":
        return "memory", (
            "it ran out of memory (OOMKilled); give train more memory in the placement file, or lower train.batch_size"
        )
    if code in ENDINGS:
        return ENDINGS[code]
    if code == 0 or pod["status"].get("reason") == "Evicted":
        return None
    if reason in ("ContainerStatusUnknown", "Unknown"):
        return "lost", "its node or the container runtime restarted"
    if code in (KILLED, ENDED) and "deletionTimestamp" in pod["metadata"]:
        return "stopped", "it was deleted during training"
    hint = " (killed by the node for lack of memory, or by a time-out)" if code == KILLED else ""
    return "exit", f"its process ended with code {code}{hint}"


def _of_event(event: dict[str, Any]) -> Trouble | None:
    reason, message = event.get("reason", ""), event.get("message", "")
    where = event["involvedObject"].get("name", "")
    if reason in NOT_CREATED:
        kind, more = ("quota", "; waiting for room") if QUOTA in message else ("forbidden", "")
        return Trouble(kind, where, f"its pods cannot be created: {message}{more}")
    if reason in ("FailedMount", "FailedAttachVolume"):
        return Trouble("other", where, f"a volume cannot be mounted: {message}")
    if reason == "FailedCreatePodSandBox":
        return Trouble("other", where, f"its node cannot start it: {message}")
    if reason in ("Evicted", "Preempted", "TaintManagerEviction"):  # only a cause while the status of the pod shows it
        return Trouble("other", where, f"evicted from its node or preempted: {message}")
    return None


def _second(stamp: str | None) -> str:
    """A time from the API (in UTC) without fraction and time zone, whose format differs between the two clients."""
    return (stamp or "")[:19]


def _condition(item: dict[str, Any], kind: str, status: str = "True") -> dict[str, Any] | None:
    conditions = item.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == status), None)
