"""Notifies an optional webhook of the end of a run (CLIPTEA_WEBHOOK, an address that is kept secret)."""

from __future__ import annotations

import json
import urllib.request
from http.client import HTTPException

from cliptea import env, progress

__all__ = ["post_state"]

SECONDS = 10


def post_state(job_id: str, state: str, error: str, tracking_run: str) -> None:
    """Post the end of a run as JSON: job_id, state, error, mlflow_run_id, and `text`, which chat services show.

    Nothing is sent without an address. If the webhook fails, a warning is printed that does not contain the address.

    Args:
        state: the final state in KFP.
        error: the error message from KFP, or "".
        tracking_run: id of the MLflow run, or "" if the run failed before it was logged to MLflow.
    """
    address = env.WEBHOOK.get()
    if not address:
        return
    text = f"cliptea run {job_id}: {state}" + (f" ({error[:300]})" if error else "")
    body = {"text": text, "job_id": job_id, "state": state, "error": error, "mlflow_run_id": tracking_run}
    try:
        request = urllib.request.Request(
            address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except (OSError, ValueError, HTTPException) as problem:
        kind = getattr(problem, "code", None) or type(getattr(problem, "reason", problem)).__name__
        progress.warn(
            f"the webhook CLIPTEA_WEBHOOK could not be notified that the run ended ({kind}); "
            "check whether it is the address of a running webhook"
        )
