"""Loss curves in MLflow while a student learns: a server that is down, slow or restarted costs no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cliptea import progress
from cliptea.errors import StorageError
from cliptea.tracking.runs import ChildRun

if TYPE_CHECKING:
    from cliptea.runs import Run, Variant

__all__ = ["curve_log"]

Curves = list[dict[str, float]]


def curve_log(run: Run, variant: Variant) -> Callable[[Curves], None]:
    """A function that logs the curves so far to the variant's MLflow run, and only warns when it cannot.

    Nothing is lost then: each call is given all curves, and the evaluate step logs them once more.
    """
    from mlflow.exceptions import MlflowException

    child: ChildRun | None = None
    warned = False

    def log(curves: Curves) -> None:
        nonlocal child, warned
        try:
            child = child or ChildRun.open(run, variant)
            child.log_curves(curves)
        except (MlflowException, StorageError) as error:
            if not warned:
                progress.warn(f"loss curves are kept and logged later: {' '.join(str(error).split())[:200]}")
            warned = True

    log([])
    return log
