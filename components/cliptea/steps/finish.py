"""Exit handler: closes the tracking run with its true state, and notifies the webhook, if there is one."""

from contextlib import suppress

from kfp import dsl

from cliptea import progress
from cliptea.board import read_board
from cliptea.errors import ClipteaError
from cliptea.notice import post_state
from cliptea.steps.component import step
from cliptea.storage import open_store

__all__ = ["finish", "finish_run"]

# What the exit handler may be told, and what it means. On a cluster the state is that of ML Metadata, in kfp.local
# one of Pipelines' own. RUNNING is said of a run whose steps stand behind a condition that did not hold, and of one
# whose pods were lost: only a run that says itself that it is skipped is taken for that.
STATES = {
    **dict.fromkeys(("COMPLETE", "CACHED", "SUCCEEDED"), "SUCCEEDED"),
    **dict.fromkeys(("FAILED", "ERROR"), "FAILED"),
    **dict.fromkeys(("CANCELED", "CANCELLED", "CANCELING"), "CANCELED"),
    "SKIPPED": "SKIPPED",
}
PATIENCE = 30.0  # seconds for the board, which only adds the reason


@step()
def finish(job_id: str, status: dsl.PipelineTaskFinalStatus):
    from cliptea.steps.common import run_step
    from cliptea.steps.finish import finish_run

    run_step("finish", lambda: finish_run(job_id, status.state, status.error_message or ""), job_id=job_id)


def finish_run(job_id: str, state: str, error: str) -> None:
    """Close the pipeline run in MLflow, with the variants that are open, and tell the webhook, if there is one.

    What the steps have said of the run comes before what Pipelines says. A state that nobody knows is logged and
    changes nothing. When MLflow does not answer, a warning says that the next run closes this one.

    Args:
        job_id: the pipeline job.
        state: the final state as Pipelines spells it.
        error: Pipelines' message, if any.
    """
    from cliptea.tracking.ending import Ended, close_ended

    ended = Ended(STATES.get(state, ""), "", error or _failure(job_id))
    try:
        ended = close_ended(job_id, ended.how, ended.reason)
    except ClipteaError as problem:
        progress.warn(f"MLflow will show this run as RUNNING until a later run closes it: {problem.what}")
    if not ended.how:
        progress.warn(f"Pipelines reports the unknown state {state!r}; the MLflow run is not changed")
    post_state(job_id, ended.how or state, ended.reason if ended.how != "SUCCEEDED" else "", ended.run_id)


def _failure(job_id: str) -> str:
    """What the first step that failed said, as the board has it."""
    with suppress(ClipteaError):
        for status in read_board(open_store(patience=PATIENCE), job_id):
            if status.state == "failed":
                return status.who
    return ""
