"""The checks of `cliptea doctor` in Kubernetes: Trainer, its runtime, permissions, settings, secrets, GPUs, quota."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from cliptea import env
from cliptea.cluster.api import RIGHTS, Cluster, ClusterError, connect
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, SECONDS, UNKNOWN, Finding
from cliptea_pipeline.cluster_api import allowed, ask
from cliptea_pipeline.placement import Placement, StepPlacement
from cliptea_pipeline.server_checks import controller, mlflow_pods

__all__ = ["kubernetes"]

TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
WEBHOOK = "cliptea-webhook"  # the one secret that may be missing
RUNTIMES = {"TrainingRuntime": "trainingruntimes", "ClusterTrainingRuntime": "clustertrainingruntimes"}


def kubernetes(namespace: str | None, placement: Placement) -> list[Callable[[], Iterator[Finding]]]:
    """The checks of a cluster, each of which can run in its own thread. If no cluster answers, there is only one."""
    try:
        cluster = connect(namespace or "", timeout=(int(SECONDS), int(SECONDS)))
    except ClusterError as error:
        text = f"not configured: {error.todo}"
        return [lambda: iter([Finding("Kubernetes", UNKNOWN, text)])]
    status, trainer = ask(cluster, TRAINER)
    if status is None or status in (401, 403, 429) or status >= 500:
        return [lambda: iter([_unanswered(status)])]
    kinds = [item["name"] for item in (trainer or {}).get("resources", [])] if status == 200 else []
    needed = placement.launcher == "trainjob"
    return [
        lambda: _trainer(cluster, placement, needed, kinds),
        lambda: _rights(cluster, needed),
        lambda: _config_map(cluster, placement),
        lambda: _secrets(cluster, placement),
        lambda: _gpus(cluster, placement),
        lambda: _quota(cluster, placement),
        lambda: controller(cluster),
        lambda: mlflow_pods(cluster),
    ]


def _unanswered(status: int | None) -> Finding:
    if status is None:
        text = "the API does not answer: check KUBECONFIG, and whether the cluster is running"
    elif status in (401, 403):
        text = f"the API denies access ({status}): check KUBECONFIG, or log in again"
    else:
        return Finding("Kubernetes", NOT_READY, f"the API answers {status}: it is starting or failing; wait a minute")
    return Finding("Kubernetes", BROKEN, text)


def _trainer(cluster: Cluster, placement: Placement, needed: bool, kinds: list[str]) -> Iterator[Finding]:
    """Trainer and its runtime; `kinds` are the kinds of Trainer objects that the cluster supports."""
    absent = BROKEN if needed else UNKNOWN
    yield Finding("Kubernetes", OK, f"the API answers; namespace {cluster.namespace}")
    if "trainjobs" not in kinds:
        yield Finding(
            "Trainer", absent, "Kubeflow Trainer 2 is not installed: install it, or keep the launcher torchrun"
        )
        return
    yield Finding("Trainer", OK, "the cluster supports TrainJobs")
    job = placement.train_job
    scope = f"/namespaces/{cluster.namespace}" if job.runtime_kind == "TrainingRuntime" else ""
    status, _ = ask(cluster, f"{TRAINER}{scope}/{RUNTIMES[job.runtime_kind]}/{job.runtime}")
    yield _there("runtime", status, f"{job.runtime_kind} {job.runtime}", "apply cliptea's manifests", absent)


def _rights(cluster: Cluster, needed: bool) -> Iterator[Finding]:
    """The permissions that the train step needs, for the caller, which is the service account in a step's pod."""
    may = {f"{right.verb} {right.resource}": allowed(cluster, right) for right in RIGHTS}
    lacking = [name for name, answer in may.items() if not answer]
    if None in may.values():
        yield Finding("rights", UNKNOWN, "the cluster does not report your permissions")
    elif lacking:
        text = f"you may not {', '.join(lacking)} in {cluster.namespace}: bind the Role from cliptea's manifests"
        yield Finding("rights", BROKEN if needed else UNKNOWN, text)
    else:
        yield Finding("rights", OK, f"you may create and follow TrainJobs in {cluster.namespace}")


def _config_map(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    name = placement.config_map
    if placement.store is not None or env.STORE.name not in placement.config_keys:
        return
    status, found = ask(cluster, f"/api/v1/namespaces/{cluster.namespace}/configmaps/{name}")
    if status == 200 and env.STORE.name not in ((found or {}).get("data") or {}):
        text = f"config map {name} has no CLIPTEA_STORE: add it, or set store in the placement"
        yield Finding("settings", BROKEN, text)
    else:
        yield _there("settings", status, f"config map {name}", "apply cliptea's manifests", BROKEN)


def _secrets(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    base = f"/api/v1/namespaces/{cluster.namespace}"
    for name, named in placement.secrets.items():
        keys = placement.taken(named)
        if not keys:
            continue
        optional = name == WEBHOOK or keys != named  # with the MLflow plug-in, only credentials remain
        status, found = ask(cluster, f"{base}/secrets/{name}")
        held = set((found or {}).get("data") or {}) & set(keys)
        if status == 200 and not held and not optional:
            yield Finding("secret", BROKEN, f"secret {name} holds none of {', '.join(keys)}: recreate it")
        else:
            todo = f"create it with some of the keys {', '.join(keys)}; if you need none, set {name}: [] under secrets"
            yield _there("secret", status, f"secret {name}", todo, UNKNOWN if optional else BROKEN)
    for name in placement.image_pull_secrets:
        status, _ = ask(cluster, f"{base}/secrets/{name}")
        yield _there("image pull", status, f"secret {name}", "kubectl create secret docker-registry", BROKEN)
    if not placement.image_pull_secrets:
        open_to = "in a registry open to the nodes" if "/" in placement.image else "loaded into every node"
        yield Finding("image pull", UNKNOWN, f"the placement sets no secret, so {placement.image} must be {open_to}")


def _gpus(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    status, found = ask(cluster, "/api/v1/nodes")
    if status != 200 or found is None:
        yield Finding("GPU nodes", UNKNOWN, f"you may not list nodes ({status or 'no answer'}); ask an administrator")
        return
    nodes, resource = found["items"], placement.gpu_resource
    counts = [_count(node, resource) for node in nodes]
    there = f"{sum(counts)} {resource} on {sum(count > 0 for count in counts)} of {len(counts)} nodes"
    steps = {name: getattr(placement.steps, name) for name in type(placement.steps).model_fields}
    wanting = {name: step for name, step in steps.items() if step.gpus}
    if not wanting:
        yield Finding("GPU nodes", OK, f"{there}; the placement asks for none")
        return
    for name, step in wanting.items():
        wanted = placement.train_job.nodes if name == "train" else 1
        if sum(_fits(node, step, resource) for node in nodes) < wanted:
            chosen = f" and the labels {step.node_selector}" if step.node_selector else ""
            text = f"{there}, but {name} needs {wanted} node{'s' * (wanted > 1)} with {step.gpus}{chosen}"
            todo = "change gpus, node_selector or train_job.nodes in the placement"
            yield Finding("GPU nodes", BROKEN, f"{text}: {todo}")
            return
    yield Finding("GPU nodes", OK, f"{there}, enough for {', '.join(wanting)}")


def _count(node: dict[str, Any], resource: str) -> int:
    return int(node["status"].get("allocatable", {}).get(resource, 0))


def _fits(node: dict[str, Any], step: StepPlacement, resource: str) -> bool:
    """Whether a node can run the pods of a step and has enough GPUs. Taints are ignored."""
    closed = node.get("spec", {}).get("unschedulable", False)
    labels = node.get("metadata", {}).get("labels", {})
    return not closed and step.node_selector.items() <= labels.items() and _count(node, resource) >= step.gpus


def _quota(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    """Whether all students that train at a time fit into the quota. Students that wait too long fail."""
    students, gpus = placement.students_at_a_time, placement.steps.train.gpus * placement.train_job.nodes
    status, found = ask(cluster, f"/api/v1/namespaces/{cluster.namespace}/resourcequotas")
    if status != 200 or found is None:
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


def _there(what: str, status: int | None, name: str, todo: str, absent: str) -> Finding:
    if status == 200:
        return Finding(what, OK, f"{name} exists")
    if status == 404:
        return Finding(what, absent, f"{name} does not exist: {todo}")
    return Finding(what, UNKNOWN, f"you may not read {name} ({status or 'no answer'})")
