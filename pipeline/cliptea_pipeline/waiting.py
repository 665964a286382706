"""Finds out what a run on a cluster waits for if nothing changes."""

from __future__ import annotations

import re

from cliptea.cluster.api import ClusterError, connect
from cliptea_pipeline.endpoint import Endpoint
from cliptea_pipeline.looks import step_named

__all__ = ["TIMEOUT", "lines"]

TIMEOUT = (3, 10)  # seconds to connect to the Kubernetes API, and for its answer
NODE = re.compile(r"(\w+)(?:-driver)?\(\d+\)(?:\.executor\(\d+\))?$")  # the workflow's, of a step or its driver


def lines(endpoint: Endpoint, run_id: str) -> list[str]:
    """A line for each waiting pod of a run with the reason, or else the command that shows them."""
    namespace = endpoint.steps_namespace or "kubeflow"
    try:
        cluster = connect(endpoint.steps_namespace, TIMEOUT)
        namespace = cluster.namespace
        waiting = [pod for pod in cluster.step_pods(run_id) if pod.waits]
    except ClusterError:
        waiting = []
    found = [f"  {_step(pod.node)}pod {pod.name}: {pod.waits}" for pod in waiting]
    return found or [f"  to see what is waiting: kubectl -n {namespace} get pods -l pipeline/runid={run_id}"]


def _step(node: str) -> str:
    found = NODE.search(node)
    step = step_named(found[1]) if found else ""
    return f"{step}, " if step else ""
