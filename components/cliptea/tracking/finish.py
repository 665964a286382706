"""How a pipeline run's MLflow run ends: told by the exit handler or, when the run is stopped, from outside."""

from __future__ import annotations

from cliptea import progress
from cliptea.notice import post_state
from cliptea.tracking.client import TrackingError, connect, find_run, plugin_run
from cliptea.tracking.runs import JOB_TAG

__all__ = ["finish", "mark_stopped"]


def finish(job_id: str, state: str, error: str) -> None:
    """Mark the run FINISHED or FAILED, and tell the webhook, if there is one.

    Nothing is lost when MLflow does not answer: a warning says that it goes on to show the run as RUNNING.

    Args:
        job_id: the pipeline job.
        state: KFP's final state, SUCCEEDED when all went well.
        error: KFP's message, if any.
    """
    run_id = ""
    try:
        run_id = _close(job_id, state, error)
    except TrackingError as away:
        progress.warn(f"MLflow shows this run as RUNNING until its settings run again: {away.what}")
    finally:
        post_state(job_id, state, error, run_id)


def _close(job_id: str, state: str, error: str) -> str:
    client = connect()
    found = plugin_run(client) or find_run(client, {JOB_TAG: job_id})
    if found is None:
        progress.note("the run failed before it was tracked")
        return ""
    if error:
        client.set_tag(found.info.run_id, "cliptea.error", error[:500])
    client.set_terminated(found.info.run_id, "FINISHED" if state == "SUCCEEDED" else "FAILED")
    return found.info.run_id


def mark_stopped(run_id: str) -> None:
    """Mark a pipeline run that was stopped, and the variants that were at work, KILLED; the next run goes on with them.

    Args:
        run_id: MLflow's id of the pipeline run.
    """
    client = connect()
    parent = client.get_run(run_id)
    at_work = f"tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'RUNNING'"
    for run in [*client.search_runs([parent.info.experiment_id], at_work), parent]:
        client.set_terminated(run.info.run_id, "KILLED")
