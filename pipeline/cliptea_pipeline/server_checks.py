"""The servers that `cliptea doctor` checks through Kubernetes: the workflow controller, and cliptea's MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from cliptea.cluster.api import Cluster
from cliptea_pipeline.checks import BROKEN, NOT_READY, OK, UNKNOWN, UTF8, Finding
from cliptea_pipeline.cluster_api import ask

__all__ = ["controller", "mlflow_pods"]

CONTROLLER = "workflow-controller-configmap"
PIPELINES = "kubeflow"  # namespace of Pipelines, if steps run in another
MLFLOW = "app.kubernetes.io/component=mlflow"
NOT_UTF8 = "bytes-like object"  # in MLflow's error if its database has no encoding


def controller(cluster: Cluster) -> Iterator[Finding]:
    """What the workflow controller retries, and how large a run can be."""
    held = None
    for namespace in dict.fromkeys((cluster.namespace, PIPELINES)):
        status, found = ask(cluster, f"/api/v1/namespaces/{namespace}/configmaps/{CONTROLLER}")
        if status == 200 and found is not None:
            held = found.get("data") or {}
            break
    if held is None:
        text = "the settings of Pipelines' workflow controller cannot be read"
        yield Finding("retries", UNKNOWN, f"{text}; whatever they are, steps retry temporary failures themselves")
        return
    settings = {key: yaml.safe_load(text) for key, text in held.items() if key != "config"}
    settings |= yaml.safe_load(held.get("config", "")) or {}
    policy = _at(settings, "workflowDefaults", "spec", "templateDefaults", "retryStrategy", "retryPolicy")
    own = "steps retry temporary failures themselves"
    if policy == "OnError":
        text = f"the server replaces lost pods and does not rerun failed code (retryPolicy OnError); {own}"
    else:
        text = f"the server may rerun failed code (retryPolicy {policy or 'not set'}), which then resumes; {own}"
    yield Finding("retries", OK, text)
    if _at(settings, "persistence", "nodeStatusOffLoad") is True:
        text = "workflows over 1 MiB are kept in a database, so a run can have more than 105 variants"
    else:
        text = "a workflow is limited to 1 MiB, about 105 variants; for more, use several runs with one store"
    yield Finding("size", OK, text)


def mlflow_pods(cluster: Cluster) -> Iterator[Finding]:
    """Why the MLflow of cliptea's manifests does not start. Other MLflow servers are ignored."""
    base = f"/api/v1/namespaces/{cluster.namespace}/pods"
    status, found = ask(cluster, f"{base}?labelSelector={MLFLOW}")
    for pod in (found or {}).get("items", []) if status == 200 else []:
        name, state = pod["metadata"]["name"], pod.get("status", {})
        if pod["metadata"]["labels"].get("app.kubernetes.io/part-of") != "cliptea":
            continue
        if any((item["type"], item["status"]) == ("Ready", "True") for item in state.get("conditions", [])):
            continue
        tables = [item for item in state.get("initContainerStatuses", []) if not item.get("ready")]
        container = tables[0]["name"] if tables else "mlflow"
        _, log = ask(cluster, f"{base}/{name}/log?container={container}&tailLines=100")
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
