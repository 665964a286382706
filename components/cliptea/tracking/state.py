"""The state of a pipeline run in MLflow, from its first step to its end, whoever tells of it.

Every step that is at work leaves a heartbeat on the run. A run that is still shown as RUNNING and has had none for
long was cancelled or killed, and is closed by whoever looks next (`sweep`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

__all__ = ["End", "close_job", "run_address", "sweep"]

End = Literal["FINISHED", "FAILED", "KILLED"]


def close_job(job_id: str, end: End, reason: str) -> list[str]:
    """Close the run of a pipeline job and its variants that are still open; returns the names of those closed.

    Args:
        job_id: the pipeline job.
        end: state of the run.
        reason: shown in its description.

    Raises:
        TrackingError: MLflow does not answer.
    """
    raise NotImplementedError


def sweep(ended: Callable[[str], bool] | None = None) -> list[str]:
    """Close every run without a heartbeat as KILLED; returns a line about each.

    Args:
        ended: says of a pipeline job whether it is known to have ended; default: nobody knows, and silence tells.
    """
    raise NotImplementedError


def run_address(job_id: str) -> str | None:
    """The address of the run of a pipeline job on the pages of MLflow's server; None without a server or a run."""
    raise NotImplementedError
