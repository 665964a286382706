"""The checks of `cliptea doctor` for a place for all pods: GPUs, the quota of the namespace, and Kueue's queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from cliptea.cluster.api import KUEUE, KUEUE_VERSION, Cluster
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, UNKNOWN, Finding
from cliptea_pipeline.cluster_requests import ask, there
from cliptea_pipeline.placement import Placement, StepPlacement

__all__ = ["gpu_nodes", "queues", "quotas"]

QUEUE = f"{KUEUE}/queue-name"  # label


def gpu_nodes(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    status, found = ask(cluster, "/api/v1/nodes")
    if status != 200:
        yield Finding("GPU nodes", UNKNOWN, f"you may not list nodes ({status or 'no answer'}); ask an administrator")
        return
    nodes, resource = found["items"], placement.gpu_resource
    counts = [_count(node, resource) for node in nodes]
    present = f"{sum(counts)} {resource} on {sum(count > 0 for count in counts)} of {len(counts)} nodes"
    steps = {name: getattr(placement.steps, name) for name in type(placement.steps).model_fields}
    wanting = {name: step for name, step in steps.items() if step.gpus}
    if not wanting:
        yield Finding("GPU nodes", OK, f"{present}; the placement asks for none")
        return
    for name, step in wanting.items():
        wanted = placement.train_job.nodes if name == "train" else 1
        if sum(_fits(node, step, resource) for node in nodes) < wanted:
            chosen = f" and the labels {step.node_selector}" if step.node_selector else ""
            text = f"{present}, but {name} needs {wanted} node{'s' * (wanted > 1)} with {step.gpus}{chosen}"
            todo = "change gpus, node_selector or train_job.nodes in the placement"
            yield Finding("GPU nodes", BROKEN, f"{text}: {todo}")
            return
    yield Finding("GPU nodes", OK, f"{present}, enough for {', '.join(wanting)}")


def _count(node: dict[str, Any], resource: str) -> int:
    return int(node["status"].get("allocatable", {}).get(resource, 0))


def _fits(node: dict[str, Any], step: StepPlacement, resource: str) -> bool:
    """Whether a node can run the pods of a step and has enough GPUs. Taints are ignored."""
    closed = node.get("spec", {}).get("unschedulable", False)
    labels = node.get("metadata", {}).get("labels", {})
    return not closed and step.node_selector.items() <= labels.items() and _count(node, resource) >= step.gpus


def quotas(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether all students that train at a time fit into the quota. Students that wait too long fail."""
    students, gpus = placement.students_at_a_time, placement.steps.train.gpus * placement.train_job.nodes
    status, found = ask(cluster, "resourcequotas")
    if status != 200:
        yield Finding("quota", UNKNOWN, f"you may not list quotas ({status or 'no answer'}); ask an administrator")
        return
    for quota in found["items"]:
        name, hard = quota["metadata"]["name"], quota["spec"].get("hard", {}).get(f"requests.{placement.gpu_resource}")
        if hard is None or not gpus:
            continue
        room = int(parse_quantity(hard))
        wanted = f"{name} has {room} {placement.gpu_resource}, and each student needs {gpus}"
        if students is None or students * gpus > room:
            todo = f"set parallel: {room // gpus}" if room >= gpus else "raise the quota"
            state = UNKNOWN if students is None and room >= gpus else BROKEN
            yield Finding("quota", state, f"{wanted}, {students or 'all'} at a time: {todo}")
        else:
            yield Finding("quota", OK, f"{wanted}, {students} at a time")


def queues(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether the queues that labels name exist and admit pods. Without them, pods and TrainJobs wait for ever."""
    steps = [getattr(placement.steps, name) for name in type(placement.steps).model_fields]
    named = dict.fromkeys(queue for step in steps if (queue := placement.labels_of(step).get(QUEUE)))
    if not named:
        return
    api = f"/apis/{KUEUE}/{KUEUE_VERSION}"
    if (status := ask(cluster, api)[0]) != 200:
        absent = f"the cluster does not serve {KUEUE}/{KUEUE_VERSION}"
        why = absent if status == 404 else f"Kueue does not answer ({status or 'no answer'})"
        yield Finding("queue", UNKNOWN, f"{why}, so it is not known what the label {QUEUE}={', '.join(named)} does")
        return
    for name in named:
        status, found = ask(cluster, f"{api}/namespaces/{cluster.namespace}/localqueues/{name}")
        closed = [item for item in found.get("status", {}).get("conditions", []) if item["status"] == "False"]
        if status == 200 and closed:
            yield Finding("queue", NOT_READY, f"LocalQueue {name} admits nothing: {closed[0]['message']}")
        else:
            todo = "whatever names it waits for ever; create it, or change the label in the placement"
            yield there("queue", status, f"LocalQueue {name}", todo, BROKEN)
