"""Sends the status and heartbeats of a step to the board in the store and to its run in MLflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cliptea import env, progress, watchdog
from cliptea.board import posting
from cliptea.errors import ClipteaError
from cliptea.steps.store_folder import claim_store
from cliptea.storage import open_store

__all__ = ["watched"]

FIRST_SECONDS, HEART_SECONDS = 20.0, 60.0  # short steps end before the first heartbeat and need not load MLflow
POST_PATIENCE = 20.0  # seconds; status updates that cannot be stored by then are dropped
TELL_SECONDS = 20.0  # how long MLflow may take to record an error; the watchdog no longer watches then


@contextmanager
def watched(step: str, label: str, job_id: str, tracking_run: str) -> Iterator[None]:
    """Report the status of the step while the block runs, and its error if it fails.

    Args:
        label: label of the variant or "".
        tracking_run: MLflow's id of the pipeline run; "" if the step itself publishes it.
    """
    heart = _Heart(tracking_run)
    with ExitStack() as stack:
        if not env.in_local_run():  # on a cluster
            with suppress(ClipteaError):  # the step itself reports errors of the store
                store = open_store(patience=POST_PATIENCE)
                claim_store(store)
                stack.enter_context(posting(store, job_id, step, label))
        stack.enter_context(progress.listening(heart.hear))
        stack.callback(heart.stop.set)
        watchdog.aside("cliptea-heartbeat", heart.live)
        yield


class _Heart:
    """Sends heartbeats to the pipeline run in MLflow. Errors of MLflow do not affect the step."""

    def __init__(self, tracking_run: str) -> None:
        self.tracking_run = tracking_run
        self.stop = threading.Event()

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "published":
            self.tracking_run = event["values"].get("tracking_run", self.tracking_run)
        elif event["event"] == "failed" and not event["stopped"] and self.tracking_run:
            watchdog.aside("cliptea-failure", self._tell, event).join(TELL_SECONDS)

    def _tell(self, failure: dict[str, Any]) -> None:
        with suppress(Exception):
            from cliptea.tracking.state import mark_failed

            mark_failed(self.tracking_run, failure["step"], failure["label"], failure["text"])

    def live(self) -> None:
        seconds = FIRST_SECONDS
        while not self.stop.wait(seconds):
            seconds = HEART_SECONDS
            if self.tracking_run:
                with suppress(Exception):
                    from cliptea.tracking.state import beat

                    beat(self.tracking_run)
