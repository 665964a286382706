"""Closes the MLflow runs of runs that have ended on a cluster, if MLFLOW_TRACKING_URI is set on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from cliptea.errors import ClipteaError, one_line
from cliptea_pipeline.endpoint import Endpoint, Unknown
from cliptea_pipeline.looks import ENDED, state_of

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


def ended(job_id: str, ask: Callable[[str], str]) -> End | Literal["RUNNING"] | None:
    """How a pipeline run has ended, for a sweep: "RUNNING" while it is active, None if Pipelines does not know it.

    Args:
        job_id: the pipeline run, which may belong to a single machine or to another cluster.
        ask: returns the state of a run in Pipelines, with the errors of `looks.state_of`. If Pipelines does not answer,
            or denies the request, as for runs of another namespace, the run counts as active.
    """
    try:
        return ENDED.get(ask(job_id), "RUNNING")
    except Unknown:
        return None
    except ClipteaError:
        return "RUNNING"


def sweep(endpoint: Endpoint) -> list[str]:
    """Close the open MLflow runs of pipeline runs that have ended, and return a line about each."""
    if not is_named():
        return []
    from cliptea.tracking import state as tracked

    try:
        return tracked.close_silent_runs(lambda job_id: ended(job_id, partial(state_of, endpoint)))
    except Exception as error:
        return [f"could not check MLflow for ended runs that are still open there: {_line(error)}"]


def _line(error: Exception) -> str:
    return error.what if isinstance(error, ClipteaError) else f"{type(error).__name__}: {one_line(error)}"
