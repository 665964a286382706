"""What Kubeflow Pipelines says of a run: its state, its tasks, and what their pods printed."""

from __future__ import annotations

from typing import Any, NamedTuple

from cliptea.errors import ConfigError
from cliptea_pipeline.endpoint import Endpoint, Unknown
from cliptea_pipeline.placement import Steps

__all__ = ["CANCELLED", "ENDED", "OPEN", "Look", "Task", "log_address", "look", "read_log", "run_page", "step_named"]

CANCELLED = "CANCELED"  # as Pipelines spells it
ENDED = {"SUCCEEDED": 0, "SKIPPED": 0, "FAILED": 1, CANCELLED: 3}  # state of a run -> exit code
OPEN = ("PENDING", "RUNNING")  # states of a task that goes on
CANCELS = ("CANCELING", CANCELLED)
LOG_SECONDS = 30


def step_named(name: str) -> str:
    """The step that Pipelines calls `name`; "" when it is none."""
    step = "train" if name == "launch" else name
    return step if step in Steps.model_fields else ""


class Task(NamedTuple):
    """A node of the run's workflow.

    Attributes:
        id: of the task.
        name: a step's name, or one that Pipelines makes: NAME-driver, NAME(0), executor, condition-2, ...
        state: "" when it was left out.
        started: when, as text that sorts by time.
        seconds: from start to end, if it has ended.
        nodes: ids of the workflow's nodes below it.
    """

    id: str
    name: str
    state: str
    started: str
    seconds: float
    nodes: list[str]

    @property
    def step(self) -> str:
        """The step whose task it is; "" for the drivers, executors and loops around the steps."""
        return step_named(self.name)


class Look(NamedTuple):
    """A run at one moment.

    Attributes:
        state: as Pipelines says it; but CANCELED for what it calls FAILED after somebody has ended the run.
        error: Pipelines' own message, which is empty when a step fails.
        tasks: in the order of their start.
    """

    state: str
    error: str
    tasks: list[Task]


def look(endpoint: Endpoint, run_id: str) -> Look:
    """The run now.

    Raises:
        ConfigError: there is no such run.
        Away: the server does not answer.
        EndpointError: it refuses.
    """
    try:
        with endpoint.asked():
            run = endpoint.client.get_run(run_id)
    except Unknown as error:
        raise ConfigError(
            f"there is no run {run_id!r} ({error.what})",
            "the id of a run, or its address as `cliptea submit` printed it",
        ) from None
    past = [entry.state for entry in run.state_history or []]
    state = run.state or "PENDING"
    if state == "FAILED" and any(earlier in CANCELS for earlier in past):
        state = CANCELLED
    error = " ".join((run.error.message or "").split()) if run.error is not None else ""
    found = run.run_details.task_details if run.run_details is not None else None
    return Look(state, error, sorted(map(_task, found or []), key=lambda task: task.started))


def _task(told: Any) -> Task:
    ended = told.state is not None and told.state not in OPEN
    return Task(
        id=told.task_id or "",
        name=told.display_name or "",
        state=told.state or "",
        started=str(told.start_time),
        seconds=(told.end_time - told.start_time).total_seconds() if ended else 0.0,
        nodes=[child.pod_name for child in told.child_tasks or [] if child.pod_name],
    )


def run_page(endpoint: Endpoint, run_id: str) -> str:
    """The address of the run on the pages of Pipelines."""
    return f"{endpoint.url}/#/runs/details/{run_id}"


def log_address(endpoint: Endpoint, run_id: str, node: str) -> str:
    """The address of what the pod of a workflow's node printed."""
    return f"{endpoint.url}{_log_path(run_id, node)}"


def read_log(endpoint: Endpoint, run_id: str, node: str) -> str:
    """What the pod of a workflow's node printed.

    Raises:
        EndpointError: it is gone, or the server does not answer.
    """
    with endpoint.asked():  # version 2 of the API and its client have no such request
        return endpoint.client._run_api.api_client.call_api(
            _log_path(run_id, node),
            "GET",
            response_type="str",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
            _request_timeout=LOG_SECONDS,
        )


def _log_path(run_id: str, node: str) -> str:
    return f"/apis/v1alpha1/runs/{run_id}/nodes/{node}/log"
