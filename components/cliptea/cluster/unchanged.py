"""Whether a scheduled run has anything to do: an earlier run of the same settings and data may have finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cliptea import progress
from cliptea.tracking.client import connect, experiment_id, persist
from cliptea.tracking.runs import SKIPPED_TAG
from cliptea.tracking.state import mark_skipped

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["skip"]

FINGERPRINT_TAG = "cliptea.fingerprint"


def skip(run: Run) -> bool:
    """Mark the run skipped if neither data nor settings have changed since a run that finished; says whether."""
    return persist(lambda: _skip(run))


def _skip(run: Run) -> bool:
    client = connect()
    query = f"tags.`{FINGERPRINT_TAG}` = '{run.fingerprint}' and attributes.status = 'FINISHED'"
    found = client.search_runs([experiment_id(client)], query, order_by=["attributes.start_time DESC"])
    earlier = [r for r in found if r.info.run_id != run.tracking_run and SKIPPED_TAG not in r.data.tags]
    if not earlier:
        return False
    mark_skipped(client, run.tracking_run, earlier[0].info.run_id)
    progress.note(f"skipped: neither data nor settings have changed since run {earlier[0].info.run_id}")
    return True
