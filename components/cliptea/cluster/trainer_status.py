"""Reports the progress of training to Kubeflow Trainer, which shows it in the status of the TrainJob.

With its feature gate TrainJobStatus, Trainer gives the pods of a TrainJob an address, the certificate of its CA, and a
token. Without them, nothing is reported. Source: pkg/statusserver of Kubeflow Trainer 2.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import requests

from cliptea import env, progress, watchdog
from cliptea.errors import one_line

__all__ = ["reporting"]

SECONDS = 10.0  # for one request


@contextmanager
def reporting() -> Iterator[None]:
    """Report the progress of this process (`cliptea.progress`) while the block trains, each time that its log shows it.

    Training does not wait for Trainer. If a report fails, a warning says so once.
    """
    if not env.TRAINER_URL.get():
        yield
        return
    reports: SimpleQueue[dict[str, Any] | None] = SimpleQueue()

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "bar" and event["text"] == progress.TRAINING and event["total"]:
            reports.put(_status(event))

    thread = watchdog.aside("cliptea-trainer-status", _send_all, reports)
    try:
        with progress.listening(hear):
            yield
    finally:
        reports.put(None)
        thread.join(SECONDS)


def _status(event: dict[str, Any]) -> dict[str, Any]:
    """The event of a bar as Trainer's `UpdateTrainJobStatusRequest`."""
    status: dict[str, Any] = {
        "lastUpdatedTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "progressPercentage": 100 * event["done"] // event["total"],
        "metrics": [{"name": name, "value": f"{value:.6g}"} for name, value in event["values"].items()],
    }
    if event["left"] is not None:
        status["estimatedRemainingSeconds"] = round(event["left"])
    return {"trainerStatus": status}


def _send_all(reports: SimpleQueue[dict[str, Any] | None]) -> None:
    failed = False
    while (report := reports.get()) is not None:
        try:
            _send(report)
        except (OSError, ValueError) as error:  # requests raises OSErrors, a token that is no text a ValueError
            if not failed:
                progress.warn(f"Kubeflow Trainer does not take the progress of the TrainJob: {one_line(error)[:200]}")
            failed = True


def _send(report: dict[str, Any]) -> None:
    token = Path(env.TRAINER_TOKEN.get()).read_text().strip()  # read anew, because Kubernetes renews it
    if len(token.split()) != 1:  # requests would show it in its error
        raise ValueError("the token of the pod is not a single word")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with requests.Session() as session:
        session.trust_env = False  # the address is inside the cluster, where no proxy leads
        answer = session.post(
            env.TRAINER_URL.get(),
            data=json.dumps(report),
            headers=headers,
            verify=env.TRAINER_CA.get() or True,
            timeout=SECONDS,
            allow_redirects=False,
        )
        answer.raise_for_status()
