"""The checks of `cliptea doctor` that use Kubeflow Pipelines, also for runs in MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from cliptea.errors import ClipteaError
from cliptea_pipeline.checks import BROKEN, OK, UNKNOWN, Finding, answer
from cliptea_pipeline.closing import ended, is_named
from cliptea_pipeline.endpoint import Away, Unknown
from cliptea_pipeline.looks import run_state
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.server_address import ENDPOINT, NAMESPACE, TOKEN, address, inside, named, namespace_inside, token

__all__ = ["kfp", "steps_namespace", "sweep"]

PLUGIN = "mlflow"  # name of the plug-in, under which runs keep its output
LOOKED_AT = 10  # newest runs


class _Api(NamedTuple):
    """Pipelines' API with short time limits and without retries. `Endpoint` would retry, and load kfp."""

    url: str
    away: str = BROKEN  # the state of a server that cannot be reached

    def get(self, path: str) -> tuple[Finding, Any]:
        given = token(self.url)
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        url = f"{self.url}/apis/v2beta1/{path}"
        return answer("Pipelines", self.url, url, headers, ENDPOINT, TOKEN, away=self.away)

    def state_of(self, run_id: str) -> str:
        found, run = self.get(f"runs/{quote(run_id, safe='')}")
        if found.state == OK:
            return run_state(run)
        if found.status == 404 and run:  # Pipelines' own answers have a body that says why
            raise Unknown(found.text)
        raise Away(found.text, reason=found.text)


def steps_namespace(endpoint: str | None) -> str:
    """The namespace of the steps, if the server is that of this pod's cluster and answers, or else ""."""
    try:
        url = address(endpoint)
        if not inside(url):
            return ""
        found, health = _Api(url).get("healthz")
    except ClipteaError:
        return ""
    return namespace_inside(url, bool(health.get("multi_user"))) if found.state == OK else ""


def kfp(endpoint: str | None, namespace: str | None, placement: Placement) -> Iterator[Finding]:
    """Check Pipelines' API, the permission to list experiments, which a run needs, and the MLflow plug-in.

    Args:
        endpoint: defaults to KFP_ENDPOINT.
        namespace: of the user in multi-user mode.
        placement: defines whether the plug-in is expected.
    """
    try:
        # Not every cluster has Pipelines, and this may be a pod in one that has not.
        api = _Api(address(endpoint), away=BROKEN if named(endpoint) else UNKNOWN)
    except ClipteaError as error:
        yield Finding("Pipelines", UNKNOWN, f"not configured: {error.todo}")
        return
    try:
        token(api.url)
    except ClipteaError as error:
        yield Finding("Pipelines", BROKEN, str(error))
        return
    found, health = api.get("healthz")
    several = found.state == OK and bool(health.get("multi_user"))
    namespace = namespace or namespace_inside(api.url, several)
    if several and not namespace:
        found = Finding("Pipelines", BROKEN, f"{api.url} is in multi-user mode: add --namespace, or set {NAMESPACE}")
    where = f"&namespace={namespace}" if several else ""
    if found.state == OK:
        found, _ = api.get(f"experiments?page_size=1{where}")
    yield found
    if found.state == OK:
        yield from _plugin(api, where, placement)


def _plugin(api: _Api, where: str, placement: Placement) -> Iterator[Finding]:
    found, page = api.get(f"runs?page_size={LOOKED_AT}&sort_by=created_at%20desc{where}")
    seen = found.state == OK and any(PLUGIN in run.get("plugins_output", {}) for run in page.get("runs", []))
    injects = "variables (injectUserEnvVars: true),"
    if placement.mlflow_plugin and seen:
        yield Finding("plug-in", OK, "Pipelines' MLflow plug-in tracks the runs and sets MLFLOW_TRACKING_URI")
    elif placement.mlflow_plugin:
        text = "the placement sets mlflow_plugin, but no run here shows the plug-in's output yet; it must inject"
        yield Finding("plug-in", UNKNOWN, f"{text} {injects} or steps cannot find MLflow")
    elif seen:
        text = f"runs here show the output of Pipelines' MLflow plug-in: if it injects {injects}"
        todo = "Kubernetes refuses every step; set mlflow_plugin: true in the placement"
        yield Finding("plug-in", UNKNOWN, f"{text} {todo}")


def sweep(endpoint: str | None) -> Iterator[Finding]:
    """Close ended runs that are still open in MLflow, such as cancelled ones. This never makes doctor fail.

    Args:
        endpoint: of Pipelines, which knows the ended runs; defaults to KFP_ENDPOINT. Without it, only runs without a
            heartbeat for a long time are closed.
    """
    if not is_named():
        return
    from cliptea.tracking import state

    try:
        api = _Api(address(endpoint))
    except ClipteaError:
        api = None

    try:
        closed = state.close_silent_runs(lambda job_id: ended(job_id, api.state_of) if api else None)
    except ClipteaError as error:
        yield Finding("runs", UNKNOWN, f"could not check MLflow for ended runs that are still open there: {error.what}")
        return
    if closed:
        count = f"{len(closed)} run{'s' * (len(closed) > 1)}"
        yield Finding("runs", OK, f"closed {count} that had already ended: {'; '.join(closed)}")
    else:
        yield Finding("runs", OK, "MLflow shows no ended run as RUNNING")
