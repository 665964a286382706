"""The checks of `cliptea doctor` for a place for all pods: GPUs, the quota of the namespace, and Kueue's queues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from cliptea.cluster.job import KUEUE, PRIORITY, QUEUE
from cliptea.cluster.kubernetes_api import KUEUE_VERSION, Cluster
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, UNKNOWN, Finding
from cliptea_pipeline.cluster_requests import ask, there, unlisted
from cliptea_pipeline.placement import Placement, StepPlacement

__all__ = ["gpu_nodes", "queues", "quotas"]

LACKING = "pods and TrainJobs that name it wait forever; create it, or change the label in the placement"


def gpu_nodes(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether each step finds enough nodes with its GPUs and labels. It does not matter whether they are free now."""
    status, found = ask(cluster, "/api/v1/nodes")
    if status != 200:
        yield unlisted("GPU nodes", status, "nodes")
        return
    nodes, resource = found["items"], placement.gpu_resource
    counts = [_count(node, resource) for node in nodes]
    present = f"{sum(counts)} {resource} on {sum(count > 0 for count in counts)} of {len(counts)} nodes"
    steps = {name: getattr(placement.steps, name) for name in type(placement.steps).model_fields}
    together = placement.train_job.topology_key
    wanting = {name: step for name, step in steps.items() if step.gpus or (name == "train" and together)}
    if not wanting:
        yield Finding("GPU nodes", OK, f"{present}; the placement asks for none")
        return
    for name, step in wanting.items():
        wanted, key = (placement.train_job.nodes, together) if name == "train" else (1, None)
        fitting = [_labels(node) for node in nodes if _fits(node, step, resource)]
        # Nodes without the label of a topology are never chosen.
        groups = Counter(labels[key] for labels in fitting if key in labels) if key else {"": len(fitting)}
        if max(groups.values(), default=0) < wanted:
            given = [str(step.gpus)] * bool(step.gpus) + [f"the labels {step.node_selector}"] * bool(step.node_selector)
            same = [f"the same value of the label {key}"] if key else []
            text = f"{present}, but {name} needs {wanted} node{'s' * (wanted > 1)} with {' and '.join(given + same)}"
            todo = "change gpus, node_selector, train_job.nodes or train_job.topology_key in the placement"
            yield Finding("GPU nodes", BROKEN, f"{text}: {todo}")
            return
    yield Finding("GPU nodes", OK, f"{present}, enough for {', '.join(wanting)}")


def _count(node: dict[str, Any], resource: str) -> int:
    return int(node["status"].get("allocatable", {}).get(resource, 0))


def _fits(node: dict[str, Any], step: StepPlacement, resource: str) -> bool:
    """Whether a node can run the pods of a step and has enough GPUs. Taints are ignored."""
    closed = node.get("spec", {}).get("unschedulable", False)
    return not closed and step.node_selector.items() <= _labels(node).items() and _count(node, resource) >= step.gpus


def _labels(node: dict[str, Any]) -> dict[str, str]:
    return node.get("metadata", {}).get("labels", {})


def quotas(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether all students that train at a time fit into the quota. Students that wait too long fail.

    In a queue of Kueue, they wait for any length of time, so only one has to fit.
    """
    students, gpus = placement.students_at_a_time, placement.steps.train.gpus * placement.train_job.nodes
    when = f"{students or 'all'} at a time"
    if QUEUE in placement.labels_of(placement.steps.train):
        students, when = 1, "at least one at a time"
    status, found = ask(cluster, "resourcequotas")
    if status != 200:
        yield unlisted("quota", status, "quotas")
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
            yield Finding("quota", state, f"{wanted}, {when}: {todo}")
        else:
            yield Finding("quota", OK, f"{wanted}, {when}")


def queues(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether the queues and priority classes that labels name exist. Without them, pods and TrainJobs wait forever."""
    steps = [getattr(placement.steps, name) for name in type(placement.steps).model_fields]
    labels = [found for step in steps if (found := placement.labels_of(step)).get(QUEUE)]
    named = dict.fromkeys(found[QUEUE] for found in labels)
    if not named:
        return
    api = f"/apis/{KUEUE}/{KUEUE_VERSION}"
    if (status := ask(cluster, api)[0]) != 200:
        absent = f"the cluster does not serve {KUEUE}/{KUEUE_VERSION}"
        why = absent if status == 404 else f"Kueue does not answer{f' ({status})' if status else ''}"
        yield Finding("queue", UNKNOWN, f"{why}, so it is not known what the label {QUEUE}={', '.join(named)} does")
        return
    for name in named:
        status, found = ask(cluster, f"{api}/namespaces/{cluster.namespace}/localqueues/{name}")
        closed = [item for item in found.get("status", {}).get("conditions", []) if item["status"] == "False"]
        if status == 200 and closed:
            yield Finding("queue", NOT_READY, f"LocalQueue {name} admits nothing: {closed[0]['message']}")
        else:
            yield there("queue", status, f"LocalQueue {name}", LACKING, BROKEN)
    for name in dict.fromkeys(found[PRIORITY] for found in labels if found.get(PRIORITY)):
        status, _ = ask(cluster, f"{api}/workloadpriorityclasses/{name}")
        yield there("queue", status, f"WorkloadPriorityClass {name}", LACKING, BROKEN)
