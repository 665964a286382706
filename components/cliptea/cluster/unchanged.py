"""Whether a scheduled run has anything to do: an earlier run of the same settings and data may have finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliptea import progress
from cliptea.errors import ClipteaError
from cliptea.tracking.client import connect, experiment_id, find_run
from cliptea.tracking.runs import JOB_TAG

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["skip", "was_skipped"]

FINGERPRINT_TAG = "cliptea.fingerprint"
SKIPPED_TAG = "cliptea.skipped"  # id of the earlier run


def skip(run: Run) -> bool:
    """Mark the run skipped if neither data nor settings have changed since a run that finished; says whether."""
    client = connect()
    query = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id(client)], query, order_by=["attributes.start_time DESC"])
    earlier = [r for r in found if r.info.run_id != run.tracking_run and SKIPPED_TAG not in r.data.tags]
    if not earlier:
        return False
    client.set_tag(run.tracking_run, SKIPPED_TAG, earlier[0].info.run_id)
    progress.note(f"skipped: neither data nor settings have changed since run {earlier[0].info.run_id}")
    return True


def was_skipped(job_id: str) -> bool:
    """Whether the run of a pipeline job was skipped; not, as far as one knows, when MLflow does not answer."""
    try:
        found = find_run(connect(), {JOB_TAG: job_id})
    except ClipteaError:
        return False
    return found is not None and SKIPPED_TAG in found.data.tags
