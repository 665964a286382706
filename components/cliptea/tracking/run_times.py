"""The tags of runs, and how long a run was at work according to them.

Anybody may change tags in MLflow, so a tag that cannot be read counts as missing.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

__all__ = ["Tag", "now", "own_end", "real_end", "reopen", "silence_of"]


class Tag:
    """Tags of runs."""

    JOB = "kfp.pipeline_run_id"
    KEY = "cliptea.run"  # of a pipeline run
    FINGERPRINT = "cliptea.fingerprint"  # of its settings and data
    LABEL = "cliptea.variant"  # of a variant's
    HEARTBEAT = "cliptea.heartbeat"  # time of the last heartbeat of a step
    ERROR = "cliptea.error"  # why a run failed or was stopped
    NOTE = "mlflow.note.content"  # the description on MLflow's page
    BEGAN = "cliptea.began"  # when the run was started again
    WORKED = "cliptea.worked_seconds"  # how long it had run before that
    TABLES = "mlflow.loggedArtifacts"  # lists a run's tables
    # Tags about the end of a run, which are removed when the run resumes.
    COMPLETE = "cliptea.complete"  # set by the last step
    SKIPPED = "cliptea.skipped"  # id of the earlier run with the same settings and data
    SWEPT = "cliptea.swept"  # when it was closed because of missing heartbeats
    ENDED = frozenset((ERROR, NOTE, COMPLETE, SKIPPED, SWEPT))


def own_end(run: MlflowRun, silence: float = 0.0) -> int:
    """The end of a run for MLflow in milliseconds, so that its duration is the time that it was at work.

    MLflow shows the time from a run's start to its end. A run that was started again had its first start long ago.

    Args:
        silence: seconds since its last sign of life, which do not count.
    """
    seconds = _worked(run) if run.info.status != "RUNNING" else _since_began(run, time.time() - silence)
    return run.info.start_time + round(1000 * seconds)


def _worked(run: MlflowRun) -> float:
    """Seconds that a run was at work until it ended, or until its last heartbeat if it was killed."""
    if run.info.end_time:
        return (run.info.end_time - run.info.start_time) / 1000
    return _since_began(run, _time(run, Tag.HEARTBEAT))


def _since_began(run: MlflowRun, moment: float) -> float:
    return _worked_before(run) + max(0.0, moment - _time(run, Tag.BEGAN))


def real_end(run: MlflowRun) -> float:
    """When a closed run ended, in seconds since 1970. MLflow has an earlier end of one that was started again."""
    return _time(run, Tag.BEGAN) + _worked(run) - _worked_before(run)


def silence_of(run: MlflowRun) -> float:
    """Seconds since the last heartbeat of a run."""
    return time.time() - _time(run, Tag.HEARTBEAT)


def _time(run: MlflowRun, tag: str) -> float:
    """The time in a tag in seconds since 1970. Without the tag, or with another text in it, the start of the run."""
    try:
        return datetime.fromisoformat(run.data.tags[tag]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return run.info.start_time / 1000


def _worked_before(run: MlflowRun) -> float:
    """Seconds of the earlier starts, while `_worked` counts all of them. Without a valid tag, 0."""
    try:
        seconds = float(run.data.tags.get(Tag.WORKED, 0))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0


def reopen(client: MlflowClient, run: MlflowRun) -> None:
    """Set a run to RUNNING, remove all tags about an earlier end, and remember how long it was at work until now."""
    if run.info.end_time or Tag.HEARTBEAT in run.data.tags:
        for tag, value in ((Tag.WORKED, f"{_worked(run):.3f}"), (Tag.BEGAN, now())):
            client.set_tag(run.info.run_id, tag, value)
    for tag in run.data.tags.keys() & Tag.ENDED:
        client.delete_tag(run.info.run_id, tag)
    client.update_run(run.info.run_id, status="RUNNING")


def now() -> str:
    """The current time in the format for tags."""
    return datetime.now(UTC).isoformat(timespec="seconds")
