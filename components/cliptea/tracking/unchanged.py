"""Skips a scheduled run if an earlier run with the same settings and data has finished."""

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
    """Mark the run as skipped if a run with the same data and settings has finished. Returns the id of that run."""
    client = connect()
    query = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id(client)], query, order_by=["attributes.start_time DESC"])
    earlier = [r for r in found if r.info.run_id != run.tracking_run and SKIPPED_TAG not in r.data.tags]
    if not earlier:
        return None
    mark_skipped(client, run.tracking_run, earlier[0].info.run_id)
    return earlier[0].info.run_id
