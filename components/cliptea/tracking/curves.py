"""Logs loss curves and system metrics to MLflow during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from cliptea import progress, watchdog
from cliptea.errors import one_line
from cliptea.run import Run, Variant
from cliptea.tracking.runs import ChildRun
from cliptea.training.history import Curves

__all__ = ["curve_log"]

PATIENCE = 15.0  # seconds to wait at the end of training for unfinished requests


@contextmanager
def curve_log(run: Run, variant: Variant, epoch: float) -> Iterator[Callable[[Curves], None]]:
    """Log the loss curves to the variant's MLflow run, together with the use of CPU, memory and GPU.

    Yields a function that logs the curves so far. Training never waits for it, and a server that is down only causes a
    warning. No curve is lost, because each call gets all curves, and the evaluate step logs them again.

    Args:
        epoch: number of iterations per epoch, in which each image is shown once on average.
    """
    tracker = _Tracker(run, variant, epoch)
    tracker.tell([])
    try:
        yield tracker.tell
    finally:
        tracker.close()


class _Tracker:
    """Sends curves from daemon threads, one at a time. Curves that arrive meanwhile are sent with the next call."""

    def __init__(self, run: Run, variant: Variant, epoch: float) -> None:
        self._run, self._variant, self._epoch = run, variant, epoch
        self._child: ChildRun | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._sending: Thread | None = None
        self._warned = False

    def tell(self, curves: Curves) -> None:
        if self._sending is None or not self._sending.is_alive():
            self._sending = watchdog.aside("cliptea-curves", self._send, list(curves))

    def close(self) -> None:
        watchdog.aside("cliptea-curves", self._end).join(PATIENCE)

    def _send(self, curves: Curves) -> None:
        try:
            if self._child is None:
                self._child = ChildRun.open(self._run, self._variant)
            if self._monitor is None:
                self._monitor = self._child.monitor()
            self._child.log_curves(curves, self._epoch)
        except Exception as error:  # no error of MLflow may stop training
            if not self._warned:
                text = one_line(error)[:200]
                progress.warn(f"loss curves could not be logged and will be logged later: {text}")
            self._warned = True

    def _end(self) -> None:
        if self._sending is not None:
            self._sending.join()
        if self._monitor is not None:
            self._monitor.finish()
