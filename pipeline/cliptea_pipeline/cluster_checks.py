"""The checks of `cliptea doctor` in Kubernetes, without retries and with short time limits.

They are about Trainer and its runtime, permissions, settings, secrets, the workflow controller, and cliptea's MLflow.
Those of `room_checks` come between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import yaml

from cliptea import env
from cliptea.cluster.kubernetes_api import RIGHTS, Cluster, ClusterError, Right, connect
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, SECONDS, UNKNOWN, UTF8, Finding
from cliptea_pipeline.cluster_requests import ask, there
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.room_checks import gpu_nodes, queues, quotas
from cliptea_pipeline.server_address import PIPELINES

__all__ = ["kubernetes"]

TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
WEBHOOK = "cliptea-webhook"  # the one secret that may be missing
CONTROLLER = "workflow-controller-configmap"
MLFLOW = "app.kubernetes.io/component=mlflow"
NOT_UTF8 = "bytes-like object"  # in MLflow's error if its database has no encoding
MOST_VARIANTS = 105  # about as many fit into a workflow of 1 MiB, the limit of Argo
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
    kinds = [item["name"] for item in trainer.get("resources", [])]
    needed = placement.launcher == "trainjob"
    return [
        lambda: _trainer(cluster, placement, needed, kinds),
        lambda: _rights(cluster, needed),
        lambda: _config_map(cluster, placement),
        lambda: _secrets(cluster, placement),
        lambda: gpu_nodes(cluster, placement),
        lambda: quotas(cluster, placement),
        lambda: queues(cluster, placement),
        lambda: _controller(cluster),
        lambda: _mlflow_pods(cluster),
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
        text = "Kubeflow Trainer 2 is not installed: install it, or keep the launcher torchrun"
        yield Finding("Trainer", absent, text)
        return
    yield Finding("Trainer", OK, "the cluster supports TrainJobs")
    job = placement.train_job
    scope = f"/namespaces/{cluster.namespace}" if job.runtime_kind == "TrainingRuntime" else ""
    status, _ = ask(cluster, f"{TRAINER}{scope}/{RUNTIMES[job.runtime_kind]}/{job.runtime}")
    yield there("runtime", status, f"{job.runtime_kind} {job.runtime}", "apply cliptea's manifests", absent)


def _rights(cluster: Cluster, needed: bool) -> Iterator[Finding]:
    """The permissions that the train step needs, for the caller, which is the service account in a step's pod."""
    may = {f"{right.verb} {right.resource}": _allowed(cluster, right) for right in RIGHTS}
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
    status, found = ask(cluster, f"configmaps/{name}")
    if status == 200 and env.STORE.name not in _data(found):
        text = f"config map {name} has no CLIPTEA_STORE: add it, or set store in the placement"
        yield Finding("settings", BROKEN, text)
    else:
        yield there("settings", status, f"config map {name}", "apply cliptea's manifests", BROKEN)


def _secrets(cluster: Cluster, placement: Placement) -> Iterator[Finding]:
    for name, named in placement.secrets.items():
        keys = placement.taken(named)
        if not keys:
            continue
        optional = name == WEBHOOK or keys != named  # with the MLflow plug-in, only credentials remain
        status, found = ask(cluster, f"secrets/{name}")
        held = _data(found).keys() & set(keys)
        if status == 200 and not held and not optional:
            yield Finding("secret", BROKEN, f"secret {name} holds none of {', '.join(keys)}: recreate it")
        else:
            todo = f"create it with some of the keys {', '.join(keys)}; if you need none, set {name}: [] under secrets"
            yield there("secret", status, f"secret {name}", todo, UNKNOWN if optional else BROKEN)
    for name in placement.image_pull_secrets:
        status, _ = ask(cluster, f"secrets/{name}")
        yield there("image pull", status, f"secret {name}", "kubectl create secret docker-registry", BROKEN)
    if not placement.image_pull_secrets:
        open_to = "in a registry open to the nodes" if "/" in placement.image else "loaded into every node"
        yield Finding("image pull", UNKNOWN, f"the placement sets no secret, so {placement.image} must be {open_to}")


def _controller(cluster: Cluster) -> Iterator[Finding]:
    """What the workflow controller retries, and how large a run can be."""
    for namespace in dict.fromkeys((cluster.namespace, PIPELINES)):
        status, found = ask(cluster, f"/api/v1/namespaces/{namespace}/configmaps/{CONTROLLER}")
        if status == 200:
            held = _data(found)
            break
    else:
        text = "the settings of Pipelines' workflow controller cannot be read"
        yield Finding("retries", UNKNOWN, f"{text}; whatever they are, steps retry temporary failures themselves")
        return
    settings = {key: yaml.safe_load(text) for key, text in held.items() if key != "config"}
    settings |= yaml.safe_load(held.get("config", "")) or {}
    policy = _at(settings, "workflowDefaults", "spec", "templateDefaults", "retryStrategy", "retryPolicy")
    own = "steps retry temporary failures themselves"
    if policy == "OnError":
        text = (
            f"the server replaces deleted pods and does not rerun failed code (retryPolicy OnError); {own}. If a node "
            "evicts the pod of a step or shuts down, the run fails: submit it again, or set retryPolicy Always"
        )
    else:
        text = f"the server may rerun failed code (retryPolicy {policy or 'not set'}), which then resumes; {own}"
    yield Finding("retries", OK, text)
    if _at(settings, "persistence", "nodeStatusOffLoad") is True:
        text = f"workflows over 1 MiB are kept in a database, so a run can have more than {MOST_VARIANTS} variants"
    else:
        text = (
            f"a workflow is limited to 1 MiB, which is about {MOST_VARIANTS} variants; for more, use "
            "`cliptea submit --split N`; `cliptea plan` shows the N that you need"
        )
    yield Finding("size", OK, text)


def _mlflow_pods(cluster: Cluster) -> Iterator[Finding]:
    """Why the MLflow of cliptea's manifests does not start. Other MLflow servers are ignored."""
    _, found = ask(cluster, f"pods?labelSelector={MLFLOW}")
    for pod in found.get("items", []):
        name, state = pod["metadata"]["name"], pod.get("status", {})
        if pod["metadata"]["labels"].get("app.kubernetes.io/part-of") != "cliptea":
            continue
        if any((item["type"], item["status"]) == ("Ready", "True") for item in state.get("conditions", [])):
            continue
        tables = [item for item in state.get("initContainerStatuses", []) if not item.get("ready")]
        container = tables[0]["name"] if tables else "mlflow"
        _, log = ask(cluster, f"pods/{name}/log?container={container}&tailLines=100")
        if NOT_UTF8 in str(log):
            text = f"{name} does not start: its PostgreSQL database is not in UTF8; {UTF8}"
            yield Finding("MLflow pod", BROKEN, text)
        else:
            read = f"kubectl -n {cluster.namespace} logs {name} -c {container}"
            text = f"{name} is starting or failing; wait a minute, then read its log: {read}"
            yield Finding("MLflow pod", NOT_READY, text)


def _at(settings: Any, *path: str) -> Any:
    for key in path:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def _data(found: dict[str, Any]) -> dict[str, str]:
    """The contents of a config map or a secret."""
    return found.get("data") or {}


def _allowed(cluster: Cluster, right: Right) -> bool | None:
    """Whether the caller has a permission, or None if the cluster does not report it."""
    resource, _, below = right.resource.partition("/")
    wanted = {"namespace": cluster.namespace, "verb": right.verb, "group": right.group, "resource": resource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted | ({"subresource": below} if below else {})},
    }
    status, found = ask(cluster, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST", body)
    return found["status"]["allowed"] if status == 201 else None
