"""Exit handler: closes the MLflow run with its final state, and notifies the webhook if one is set."""

from contextlib import suppress

from kfp import dsl

from cliptea import progress
from cliptea.board import read_board
from cliptea.errors import ClipteaError
from cliptea.messages import plain
from cliptea.notice import post_state
from cliptea.steps.component import step
from cliptea.storage import open_store

__all__ = ["finish", "finish_run"]

# The states that the exit handler may receive, and what they mean. On a cluster they are states of ML Metadata, in
# kfp.local states of Pipelines. RUNNING is not listed, because it can mean that a condition skipped the steps or that
# pods were lost. A run only counts as skipped if its steps marked it as skipped.
STATES = {
    **dict.fromkeys(("COMPLETE", "CACHED", "SUCCEEDED"), "SUCCEEDED"),
    **dict.fromkeys(("FAILED", "ERROR"), "FAILED"),
    **dict.fromkeys(("CANCELED", "CANCELLED", "CANCELING"), "CANCELED"),
    "SKIPPED": "SKIPPED",
}
PATIENCE = 30.0  # seconds to wait for the board, which only adds the reason


@step()
def finish(job_id: str, status: dsl.PipelineTaskFinalStatus):
    from cliptea.steps.common import run_step
    from cliptea.steps.finish import finish_run

    run_step("finish", lambda: finish_run(job_id, status.state, status.error_message or ""), job_id=job_id)


def finish_run(job_id: str, state: str, error: str) -> None:
    """Close the pipeline run and its open variants in MLflow, and notify the webhook if one is set.

    The state that the steps recorded takes precedence over the state from Pipelines. An unknown state causes a warning
    and changes nothing. If MLflow is not available, a warning explains that a later run will close this one.

    Args:
        state: the final state, in the spelling of Pipelines.
        error: the error message from Pipelines, or "".
    """
    from cliptea.tracking.state import Ended, close_ended

    ended = Ended(how=STATES.get(state, ""), run_id="", reason=plain(" ".join(error.split())) or _failure(job_id))
    try:
        ended = close_ended(job_id, ended.how, ended.reason)
    except ClipteaError as problem:
        progress.warn(f"MLflow will show this run as RUNNING until a later run closes it: {problem.what}")
    if not ended.how:
        progress.warn(f"Pipelines reports the unknown state {state!r}; the MLflow run is not changed")
    post_state(job_id, ended.how or state, ended.reason if ended.how != "SUCCEEDED" else "", ended.run_id)


def _failure(job_id: str) -> str:
    """The error of the first failed step on the board, or ""."""
    with suppress(ClipteaError):
        for status in read_board(open_store(patience=PATIENCE), job_id):
            if status.state == "failed":
                return status.who
    return ""
