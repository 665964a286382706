"""A run as Kubeflow Pipelines reports it: its state, its tasks, and the logs of their pods."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from cliptea.errors import ConfigError
from cliptea.steps.kfp_inside import api_client
from cliptea_pipeline.endpoint import Endpoint, Unknown, web_page
from cliptea_pipeline.placement import Steps
from cliptea_pipeline.server_address import pages

if TYPE_CHECKING:
    from cliptea.tracking.state import End

__all__ = [
    "CANCELLED", "ENDED", "OPEN", "Look", "Task", "log_address", "look", "read_log", "run_page", "run_state",
    "state_of", "step_named", "word",
]  # fmt: skip

CANCELLED = "CANCELED"  # as Pipelines spells it
# State of a run that has ended -> its name in MLflow.
ENDED: dict[str, End] = {"SUCCEEDED": "FINISHED", "SKIPPED": "FINISHED", "FAILED": "FAILED", CANCELLED: "KILLED"}
OPEN = ("PENDING", "RUNNING")  # states of an active task
CANCELS = ("CANCELING", CANCELLED)
TIMEOUT_SECONDS = 30


def word(state: str) -> str:
    """The state of a run in plain English."""
    return {CANCELLED: "cancelled", "CANCELING": "being cancelled"}.get(state, state.lower())


def step_named(name: str) -> str:
    """The step that Pipelines calls `name`, or "" if it is not a step."""
    step = "train" if name == "launch" else name
    return step if step in Steps.model_fields else ""


class Task(NamedTuple):
    """A node of the run's workflow."""

    id: str
    name: str  # of a step, or one that Pipelines generates: NAME-driver, NAME(0), executor, condition-2, ...
    state: str  # "" if the task was omitted
    started: str  # start time, as text that sorts by time
    seconds: float  # duration, if it has ended
    nodes: list[str]  # ids of the workflow nodes below it

    @property
    def step(self) -> str:
        """The step that this task belongs to, or "" for the drivers, executors and loops around the steps."""
        return step_named(self.name)


class Look(NamedTuple):
    """A run at one moment."""

    state: str  # see `run_state`
    error: str  # Pipelines' own message, which is empty if a step fails
    tasks: list[Task]  # sorted by their start


def look(endpoint: Endpoint, run_id: str) -> Look:
    """The current state of a run.

    Raises:
        ConfigError: the run does not exist.
        Away: the server does not answer.
        EndpointError: it denies the request.
    """
    try:
        run = _run(endpoint, run_id)
    except Unknown as error:
        raise ConfigError(
            f"the run {run_id!r} does not exist ({error.what})",
            "the ID of a run, or the address that `cliptea submit` printed",
        ) from None
    error = " ".join(run.get("error", {}).get("message", "").split())
    tasks = map(_task, run.get("run_details", {}).get("task_details", []))
    return Look(run_state(run), error, sorted(tasks, key=lambda task: task.started))


def state_of(endpoint: Endpoint, run_id: str) -> str:
    """The state of a run; see `run_state`.

    Raises:
        Unknown: the run does not exist.
        EndpointError: the server does not answer, or denies the request.
    """
    return run_state(_run(endpoint, run_id))


def run_state(run: dict[str, Any]) -> str:
    """The state of a run in an answer of Pipelines, except that runs that a user ended are CANCELED, not FAILED."""
    past = [entry.get("state") for entry in run.get("state_history", [])]
    state = run.get("state", "PENDING")
    return CANCELLED if state == "FAILED" and any(earlier in CANCELS for earlier in past) else state


def _task(told: dict[str, Any]) -> Task:
    state = told.get("state", "")
    start, end = (datetime.fromisoformat(told[key]) for key in ("start_time", "end_time"))
    return Task(
        id=told["task_id"],
        name=told.get("display_name", ""),
        state=state,
        started=told["start_time"],
        seconds=0.0 if state in OPEN else (end - start).total_seconds(),
        nodes=[child["pod_name"] for child in told.get("child_tasks", []) if "pod_name" in child],
    )


def _run(endpoint: Endpoint, run_id: str) -> dict[str, Any]:
    found = _get(endpoint, f"/apis/v2beta1/runs/{quote(run_id, safe='')}", "object")
    if not isinstance(found, dict):  # a session at a login has expired
        raise web_page(endpoint.url)
    return found


def _get(endpoint: Endpoint, path: str, kind: str = "") -> Any:
    """A direct request, for logs, which the client does not support, and for runs, which it takes seconds to parse.

    Args:
        kind: type of the answer. Without one, it is returned as it is, for logs that may look like JSON.
    """
    with endpoint.asked():
        return api_client(endpoint.client).call_api(
            path,
            "GET",
            response_type=kind or None,
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _preload_content=bool(kind),
            _request_timeout=TIMEOUT_SECONDS,
        )


def run_page(endpoint: Endpoint, run_id: str) -> str:
    """The address of the run in the user interface of Pipelines, or "" if only the API is known."""
    found = pages(endpoint.url)
    return f"{found}/#/runs/details/{run_id}" if found else ""


def log_address(endpoint: Endpoint, run_id: str, node: str) -> str:
    """The address of the log of a workflow node's pod."""
    return f"{endpoint.url}{_log_path(run_id, node)}"


def read_log(endpoint: Endpoint, run_id: str, node: str) -> str:
    """The log of a workflow node's pod.

    Raises:
        EndpointError: the log is gone, or the server does not answer.
    """
    return _get(endpoint, _log_path(run_id, node)).data.decode("utf-8", "replace")


def _log_path(run_id: str, node: str) -> str:
    return f"/apis/v1alpha1/runs/{run_id}/nodes/{node}/log"
