"""Closes a pipeline run in MLflow for the exit handler, which may know less about the run than its steps."""

from __future__ import annotations

from typing import NamedTuple

from mlflow.entities import Run

from cliptea import progress
from cliptea.tracking.mlflow_client import connect, persist
from cliptea.tracking.runs import COMPLETE_TAG, ERROR_TAG, SKIPPED_TAG
from cliptea.tracking.state import END_PATIENCE, End, close, find_parent

__all__ = ["Ended", "close_ended"]

# final state of a run -> its state in MLflow
ENDS: dict[str, End] = {"SUCCEEDED": "FINISHED", "SKIPPED": "FINISHED", "FAILED": "FAILED", "CANCELED": "KILLED"}


class Ended(NamedTuple):
    """The end of a pipeline run. Unknown values are empty."""

    how: str  # a key of `ENDS`
    run_id: str  # id of the MLflow run
    reason: str  # why the run failed


def close_ended(job_id: str, how: str, reason: str) -> Ended:
    """Close the run of a pipeline job and its open variants in MLflow, and return how the run ended.

    Args:
        job_id: the pipeline job.
        how: the final state from Pipelines. The state that the steps logged takes precedence.
        reason: why the run failed, or "".

    Raises:
        TrackingError: MLflow is not available.
    """
    return persist(lambda: _close(job_id, how, reason), END_PATIENCE)


def _close(job_id: str, how: str, reason: str) -> Ended:
    client = connect()
    run = find_parent(client, job_id)
    if run is None:
        progress.note("the run ended before it was logged to MLflow")
        return Ended(how, "", reason)
    how, reason = _as_steps_say(run, how), reason or run.data.tags.get(ERROR_TAG, "")
    if how:
        close(client, run, ENDS[how], reason if how in ("FAILED", "CANCELED") else "")
    return Ended(how, run.info.run_id, reason)


def _as_steps_say(run: Run, how: str) -> str:
    if COMPLETE_TAG in run.data.tags:
        return "SUCCEEDED"
    return "SKIPPED" if SKIPPED_TAG in run.data.tags else how
