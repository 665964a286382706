"""The exit handler's work: close the pipeline run's MLflow run with its true state."""

from __future__ import annotations

from cliptea import progress
from cliptea.tracking.client import connect, find_run
from cliptea.tracking.runs import JOB_TAG

__all__ = ["finish"]


def finish(job_id: str, state: str, error: str) -> None:
    """Mark the run FINISHED or FAILED.

    Args:
        job_id: the pipeline job.
        state: KFP's final state, SUCCEEDED when all went well.
        error: KFP's message, if any.
    """
    client = connect()
    found = find_run(client, {JOB_TAG: job_id})
    if found is None:
        progress.note("the run failed before it was tracked")
        return
    if error:
        client.set_tag(found.info.run_id, "cliptea.error", error[:500])
    client.set_terminated(found.info.run_id, "FINISHED" if state == "SUCCEEDED" else "FAILED")
