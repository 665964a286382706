"""Requests of `cliptea doctor` to the Kubernetes API, without retries and with short time limits."""

from __future__ import annotations

from typing import Any

from cliptea.cluster.api import Cluster, Right
from cliptea_pipeline.checks import SECONDS

__all__ = ["allowed", "ask"]


def ask(cluster: Cluster, path: str, method: str = "GET", body: Any = None) -> tuple[int | None, Any]:
    """The status, and the object or text at a path. The status is None if nobody answers."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        found, status, _ = cluster.api.call_api(
            path,
            method,
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _request_timeout=(SECONDS, SECONDS),
        )
    except ApiException as error:
        return error.status, None
    except HTTPError:
        return None, None
    return status, found


def allowed(cluster: Cluster, right: Right) -> bool | None:
    """Whether the caller has a permission, or None if the cluster does not report it."""
    resource, _, below = right.resource.partition("/")
    wanted = {"namespace": cluster.namespace, "verb": right.verb, "group": right.group, "resource": resource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": wanted | ({"subresource": below} if below else {})},
    }
    status, found = ask(cluster, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST", body)
    return found["status"]["allowed"] if status == 201 and found is not None else None
