"""What a run on a cluster waits for, when nothing moves."""

from __future__ import annotations

from cliptea.cluster.api import Cluster, ClusterError, connect
from cliptea_pipeline.endpoint import Endpoint

__all__ = ["TIMEOUT", "lines"]

TIMEOUT = (3, 10)  # seconds to connect to the Kubernetes API, and for its answer


def lines(endpoint: Endpoint, run_id: str) -> list[str]:
    """The pods of a run that wait and why, a line each; else the command that shows them."""
    namespace = endpoint.steps_namespace or "kubeflow"
    try:
        cluster: Cluster = connect(endpoint.steps_namespace, TIMEOUT)
        namespace = cluster.namespace
        found = [f"  {pod}: {why}" for pod, why in cluster.step_pods(run_id)]
    except ClusterError:
        found = []
    return found or [f"  what waits: kubectl -n {namespace} get pods -l pipeline/runid={run_id}"]
