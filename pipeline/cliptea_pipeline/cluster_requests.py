"""Requests of `cliptea doctor` to the Kubernetes API, without retries and with short time limits."""

from __future__ import annotations

from typing import Any

from cliptea.cluster.kubernetes_api import Cluster
from cliptea_pipeline.checks import OK, SECONDS, UNKNOWN, Finding

__all__ = ["ask", "there", "unlisted"]


def ask(cluster: Cluster, path: str, method: str = "GET", body: Any = None) -> tuple[int | None, Any]:
    """The status, which is None if nobody answers, and the object or text at a path, or {} if there is none.

    Args:
        path: relative to the cluster's namespace, unless it starts with "/".
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        found, status, _ = cluster.api.call_api(
            path if path.startswith("/") else f"/api/v1/namespaces/{cluster.namespace}/{path}",
            method,
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _request_timeout=(SECONDS, SECONDS),
        )
    except ApiException as error:
        return error.status, {}
    except HTTPError:
        return None, {}
    return status, found or {}


def there(what: str, status: int | None, name: str, todo: str, absent: str) -> Finding:
    """Whether an object exists in the cluster.

    Args:
        what: the title of the finding.
        status: of the API's answer to the request for it; None if there was no answer.
        name: of the object, for the text.
        todo: what to do if it does not exist.
        absent: the state of the finding if it does not exist.
    """
    if status == 200:
        return Finding(what, OK, f"{name} exists")
    if status == 404:
        return Finding(what, absent, f"{name} does not exist: {todo}")
    return _unanswered(what, status, f"read {name}")


def unlisted(what: str, status: int | None, names: str) -> Finding:
    """What to say if a list, such as that of all nodes, was not given."""
    return _unanswered(what, status, f"list {names}")


def _unanswered(what: str, status: int | None, wish: str) -> Finding:
    if status is None:
        return Finding(what, UNKNOWN, f"could not {wish}, because the API did not answer; try again")
    return Finding(what, UNKNOWN, f"you may not {wish} ({status}); ask an administrator")
