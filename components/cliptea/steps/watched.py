"""Signs of life of a step: on the board in the store for whoever follows the run, and on its run in MLflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from cliptea import env, progress
from cliptea.board import posting
from cliptea.errors import ClipteaError
from cliptea.storage import open_store

__all__ = ["watched"]

FIRST_SECONDS, BEAT_SECONDS = 20.0, 60.0  # short steps need not load MLflow to say that they live
POST_PATIENCE = 20.0  # seconds; news that cannot be stored by then are dropped


@contextmanager
def watched(step: str, label: str, job_id: str, tracking_run: str) -> Iterator[None]:
    """Tell of the step inside as long as it works, and why it failed if it does.

    Args:
        step, label: its name, and the variant's label or nothing.
        job_id: the pipeline job.
        tracking_run: MLflow's id of the pipeline run; nothing where the step itself publishes it.
    """
    heart = _Heart(tracking_run)
    with ExitStack() as stack:
        if not env.in_local_run():  # on a cluster
            with suppress(ClipteaError):  # the step itself will say what is wrong with the store
                stack.enter_context(posting(open_store(patience=POST_PATIENCE), job_id, step, label))
        stack.enter_context(progress.listening(heart.hear))
        stack.callback(heart.stop.set)
        threading.Thread(target=heart.live, name="cliptea-heartbeat", daemon=True).start()
        yield


class _Heart:
    """Beats on the pipeline run in MLflow. Whatever is wrong with MLflow, the step does not suffer from it."""

    def __init__(self, tracking_run: str) -> None:
        self.tracking_run = tracking_run
        self.stop = threading.Event()

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "published":
            self.tracking_run = event["values"].get("tracking_run", self.tracking_run)
        elif event["event"] == "failed" and not event["stopped"] and self.tracking_run:
            from cliptea.tracking.state import mark_failed

            with suppress(Exception):
                mark_failed(self.tracking_run, event["step"], event["label"], event["text"])

    def live(self) -> None:
        seconds = FIRST_SECONDS
        while not self.stop.wait(seconds):
            seconds = BEAT_SECONDS
            if self.tracking_run:
                with suppress(Exception):
                    from cliptea.tracking.state import beat

                    beat(self.tracking_run)
