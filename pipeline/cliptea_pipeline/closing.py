"""MLflow's side of a run that has ended on a cluster: closed from here where MLFLOW_TRACKING_URI names the server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from cliptea.errors import ClipteaError
from cliptea_pipeline.endpoint import Away, Endpoint
from cliptea_pipeline.looks import ENDED, look

if TYPE_CHECKING:
    from cliptea.tracking.state import End

__all__ = ["address", "close", "ended", "is_named", "sweep"]

LATER = "the next run closes the runs that are still open there"


def is_named() -> bool:
    """Whether MLflow's server is named here."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def close(run_id: str, state: str, reason: str) -> str:
    """Close the MLflow runs of a pipeline run that are still open; returns a line about it, or "" when none was.

    Args:
        run_id: the pipeline run.
        state: its last state in Pipelines.
        reason: why it ended, shown in the run's description.
    """
    if not is_named():
        return f"MLflow: MLFLOW_TRACKING_URI is not set here; {LATER}"
    from cliptea.tracking import state as tracked

    try:
        closed = tracked.close_job(run_id, ENDED[state], reason)
    except Exception as error:
        return f"MLflow: {_line(error)}; {LATER}"
    return f"MLflow: closed {', '.join(closed)} as {ENDED[state]}" if closed else ""


def address(run_id: str) -> str | None:
    """The address of the run in MLflow, if it is known."""
    if not is_named():
        return None
    from cliptea.tracking import state as tracked

    try:
        return tracked.run_address(run_id)
    except Exception:  # the run goes on without it
        return None


def ended(job_id: str, state_of: Callable[[str], str]) -> End | Literal["RUNNING"] | None:
    """How a pipeline run has ended, for a sweep; "RUNNING" while it goes on, None when Pipelines does not know it.

    Args:
        job_id: the pipeline run; one of a single machine or of another cluster, perhaps.
        state_of: asks Pipelines for the state of a run, with the errors of `look`. When it does not answer, the run is
            taken to go on.
    """
    try:
        return ENDED.get(state_of(job_id), "RUNNING")
    except Away:
        return "RUNNING"
    except ClipteaError:
        return None


def sweep(endpoint: Endpoint) -> list[str]:
    """Close the MLflow runs of pipeline runs that have ended without saying so; returns a line about each."""
    if not is_named():
        return []
    from cliptea.tracking import state as tracked

    try:
        return tracked.sweep(lambda job_id: ended(job_id, lambda run_id: look(endpoint, run_id).state))
    except Exception as error:
        return [f"could not check MLflow for ended runs that are still open there: {_line(error)}"]


def _line(error: Exception) -> str:
    return error.what if isinstance(error, ClipteaError) else " ".join(f"{type(error).__name__}: {error}".split())
