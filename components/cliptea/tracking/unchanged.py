"""Whether a scheduled run has anything to do: an earlier run of the same settings and data may have finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliptea.tracking.mlflow_client import connect, experiment_id
from cliptea.tracking.runs import SKIPPED_TAG
from cliptea.tracking.state import mark_skipped

if TYPE_CHECKING:
    from cliptea.run import Run

__all__ = ["mark_unchanged"]

FINGERPRINT_TAG = "cliptea.fingerprint"


def mark_unchanged(run: Run) -> str | None:
    """Mark the run skipped if another of the same data and settings has finished; returns MLflow's id of that one."""
    client = connect()
    query = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id(client)], query, order_by=["attributes.start_time DESC"])
    earlier = [r for r in found if r.info.run_id != run.tracking_run and SKIPPED_TAG not in r.data.tags]
    if not earlier:
        return None
    mark_skipped(client, run.tracking_run, earlier[0].info.run_id)
    return earlier[0].info.run_id
