"""What MLflow is told while a student learns: loss curves, and what the machine does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from cliptea import progress
from cliptea.tracking.runs import ChildRun

if TYPE_CHECKING:
    from cliptea.run import Run, Variant

__all__ = ["curve_log"]

Curves = list[dict[str, float]]
PATIENCE = 15.0  # seconds at the end of training for what is still under way


@contextmanager
def curve_log(run: Run, variant: Variant, epoch: float) -> Iterator[Callable[[Curves], None]]:
    """A function that has the curves so far logged to the variant's MLflow run, with CPU, memory and GPU beside them.

    Training never waits for it: a server that is down, hangs or is restarted costs a warning. No curve is lost then,
    since each call is given all of them, and the evaluate step logs them once more.

    Args:
        epoch: iterations that show each image once on average.
    """
    tracker = _Tracker(run, variant, epoch)
    tracker.tell([])
    try:
        yield tracker.tell
    finally:
        tracker.close()


class _Tracker:
    """Sends from threads that die with the process, one at a time; what comes meanwhile goes with the next."""

    def __init__(self, run: Run, variant: Variant, epoch: float) -> None:
        self._run, self._variant, self._epoch = run, variant, epoch
        self._child: ChildRun | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._sending: Thread | None = None
        self._warned = False

    def tell(self, curves: Curves) -> None:
        if self._sending is None or not self._sending.is_alive():
            self._sending = Thread(target=self._send, args=(list(curves),), daemon=True)
            self._sending.start()

    def close(self) -> None:
        ending = Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(PATIENCE)

    def _send(self, curves: Curves) -> None:
        try:
            if self._child is None:
                self._child = ChildRun.open(self._run, self._variant)
            if self._monitor is None:
                self._monitor = self._child.monitor()
            self._child.log_curves(curves, self._epoch)
        except Exception as error:  # of whatever kind: training goes on
            if not self._warned:
                progress.warn(
                    f"loss curves could not be logged and will be logged later: {' '.join(str(error).split())[:200]}"
                )
            self._warned = True

    def _end(self) -> None:
        if self._sending is not None:
            self._sending.join()
        if self._monitor is not None:
            self._monitor.finish()
