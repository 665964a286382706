"""The exit handler's part: what the steps could not say themselves about how a pipeline run ended."""

from __future__ import annotations

from contextlib import suppress

from mlflow.entities import Run

from cliptea import progress
from cliptea.board import read_board
from cliptea.errors import ClipteaError
from cliptea.notice import post_state
from cliptea.storage import open_store
from cliptea.tracking.client import connect, persist
from cliptea.tracking.runs import COMPLETE_TAG, ERROR_TAG, SKIPPED_TAG
from cliptea.tracking.state import END_PATIENCE, End, close, find_parent

__all__ = ["finish"]

# What the exit handler may be told, and what it means. On a cluster the state is that of ML Metadata, in kfp.local
# one of Pipelines' own. RUNNING is said of a run whose steps stand behind a condition that did not hold, and of one
# whose pods were lost: only a run that says itself that it is skipped is taken for that.
SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
STATES = {
    **dict.fromkeys(("COMPLETE", "CACHED", "SUCCEEDED"), SUCCEEDED),
    **dict.fromkeys(("FAILED", "ERROR"), FAILED),
    **dict.fromkeys(("CANCELED", "CANCELLED", "CANCELING"), CANCELED),
    "SKIPPED": SKIPPED,
}
ENDS: dict[str, End] = {SUCCEEDED: "FINISHED", SKIPPED: "FINISHED", FAILED: "FAILED", CANCELED: "KILLED"}
PATIENCE = 30.0  # seconds for the board, which only adds the reason


def finish(job_id: str, state: str, error: str) -> None:
    """Close the pipeline run in MLflow, with the variants that are open, and tell the webhook, if there is one.

    What the steps have said of the run comes before what Pipelines says. A state that nobody knows is logged and
    changes nothing. When MLflow does not answer, a warning says that the next run closes this one.

    Args:
        job_id: the pipeline job.
        state: the final state as Pipelines spells it.
        error: Pipelines' message, if any.
    """
    told, run_id, reason = STATES.get(state, ""), "", error or _failure(job_id)
    try:
        told, run_id, reason = persist(lambda: _close(job_id, told, reason), END_PATIENCE)
    except ClipteaError as problem:
        progress.warn(f"MLflow shows this run as RUNNING until a later run closes it: {problem.what}")
    if not told:
        progress.warn(f"Pipelines says that the run is {state!r}, which is no known end; MLflow is left as it is")
    post_state(job_id, told or state, reason if told != SUCCEEDED else "", run_id)


def _close(job_id: str, told: str, reason: str) -> tuple[str, str, str]:
    """Close the run in MLflow, if it has one; returns how it ended, the id of the run, and why it failed."""
    client = connect()
    run = find_parent(client, job_id)
    if run is None:
        progress.note("the run ended before it was tracked")
        return told, "", reason
    told, reason = _as_steps_say(run, told), reason or run.data.tags.get(ERROR_TAG, "")
    if told:
        close(client, run, ENDS[told], reason if told in (FAILED, CANCELED) else "")
    return told, run.info.run_id, reason


def _as_steps_say(run: Run, told: str) -> str:
    if COMPLETE_TAG in run.data.tags:
        return SUCCEEDED
    return SKIPPED if SKIPPED_TAG in run.data.tags else told


def _failure(job_id: str) -> str:
    """What the first step that failed said, as the board has it."""
    with suppress(ClipteaError):
        for status in read_board(open_store(patience=PATIENCE), job_id):
            if status.state == "failed":
                return status.who
    return ""
