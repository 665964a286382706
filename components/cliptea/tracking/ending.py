"""How a pipeline run is closed in MLflow by its exit handler, which may know less than the steps."""

from __future__ import annotations

from typing import NamedTuple

from mlflow.entities import Run

from cliptea import progress
from cliptea.tracking.mlflow_client import connect, persist
from cliptea.tracking.runs import COMPLETE_TAG, ERROR_TAG, SKIPPED_TAG
from cliptea.tracking.state import END_PATIENCE, End, close, find_parent

__all__ = ["Ended", "close_ended"]

# how a run has ended -> its state in MLflow
ENDS: dict[str, End] = {"SUCCEEDED": "FINISHED", "SKIPPED": "FINISHED", "FAILED": "FAILED", "CANCELED": "KILLED"}


class Ended(NamedTuple):
    """How a pipeline run has ended, as far as it is known."""

    how: str  # a key of `ENDS`, or nothing
    run_id: str  # MLflow's, or nothing
    reason: str  # why it failed, or nothing


def close_ended(job_id: str, how: str, reason: str) -> Ended:
    """Close the run of a pipeline job in MLflow, with the variants that are open, and say what is known of its end.

    Args:
        job_id: the pipeline job.
        how: it ended, by Pipelines; what the steps have logged of the run counts more.
        reason: why it failed, if anybody has said so.

    Raises:
        TrackingError: MLflow does not answer.
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
