"""Closes the MLflow runs of runs that have ended on a cluster, if MLFLOW_TRACKING_URI is set on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from cliptea.errors import ClipteaError, one_line
from cliptea_pipeline.endpoint import Away, Endpoint
from cliptea_pipeline.looks import ENDED, look

if TYPE_CHECKING:
    from cliptea.tracking.state import End

__all__ = ["address", "close", "ended", "is_named", "sweep"]

LATER = "the next run closes the runs that are still open there"


def is_named() -> bool:
    """Whether an MLflow server is set on this machine."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def close(run_id: str, state: str, reason: str) -> str:
    """Close the open MLflow runs of a pipeline run, and return a line about it, or "" if there are none.

    Args:
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
    except Exception:  # the run continues without it
        return None


def ended(job_id: str, state_of: Callable[[str], str]) -> End | Literal["RUNNING"] | None:
    """How a pipeline run has ended, for a sweep: "RUNNING" while it is active, None if Pipelines does not know it.

    Args:
        job_id: the pipeline run, which may belong to a single machine or to another cluster.
        state_of: returns the state of a run in Pipelines, with the errors of `look`. If Pipelines does not answer, the
            run counts as active.
    """
    try:
        return ENDED.get(state_of(job_id), "RUNNING")
    except Away:
        return "RUNNING"
    except ClipteaError:
        return None


def sweep(endpoint: Endpoint) -> list[str]:
    """Close the open MLflow runs of pipeline runs that have ended, and return a line about each."""
    if not is_named():
        return []
    from cliptea.tracking import state as tracked

    try:
        return tracked.sweep(lambda job_id: ended(job_id, lambda run_id: look(endpoint, run_id).state))
    except Exception as error:
        return [f"could not check MLflow for ended runs that are still open there: {_line(error)}"]


def _line(error: Exception) -> str:
    return error.what if isinstance(error, ClipteaError) else f"{type(error).__name__}: {one_line(error)}"
