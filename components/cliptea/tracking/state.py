"""The state of a pipeline run in MLflow, from its first step to its end.

Every active step sends heartbeats to the run. A run that is shown as RUNNING without a recent heartbeat was cancelled
or killed, and the next call of `close_silent_runs` closes it. If it is still active, its next heartbeat opens it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Literal, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from cliptea import progress
from cliptea.board import StepStatus, read_board
from cliptea.errors import ClipteaError
from cliptea.notice import post_state
from cliptea.run import Run
from cliptea.storage import open_store
from cliptea.tracking.address import MlflowAway
from cliptea.tracking.experiment import (
    all_experiments,
    experiment_id,
    find_run,
    known_experiments,
    plugin_run,
    without_quotes,
)
from cliptea.tracking.mlflow_client import all_pages, connect, persist
from cliptea.tracking.run_times import Tag, now, own_end, reopen, silence_of

__all__ = [
    "SILENCE_SECONDS", "End", "Ended", "beat", "close_ended", "close_job", "close_silent_runs", "mark_complete",
    "mark_failed", "mark_stopped", "mark_unchanged", "run_address",
]  # fmt: skip

End = Literal["FINISHED", "FAILED", "KILLED"]
NOTICES: dict[End, str] = {"FINISHED": "SUCCEEDED", "FAILED": "FAILED", "KILLED": "CANCELED"}  # for the webhook
# final state of a run -> its state in MLflow
ENDS: dict[str, End] = {"SUCCEEDED": "FINISHED", "SKIPPED": "FINISHED", "FAILED": "FAILED", "CANCELED": "KILLED"}

SILENCE_SECONDS = 3600.0  # a run without heartbeats for this long counts as ended; pods may wait between two steps
QUIET_SECONDS = 180.0  # the same if Pipelines reports that the run has ended
END_PATIENCE = 60.0  # how long to wait for MLflow at the end of a run; `close_silent_runs` can close it later as well
BOARD_PATIENCE = 10.0  # how long to wait for the store, which only adds details
LAST_STEP = "promote"
LONGEST_TAG = 5000  # characters
ERROR_NOTES = tuple(f"**{end}**: " for end in NOTICES)  # how the descriptions by `_explain` begin


class Ended(NamedTuple):
    """The end of a pipeline run. Unknown values are empty."""

    how: str  # a key of `ENDS`
    run_id: str  # id of the MLflow run
    reason: str  # why the run failed


def beat(run_id: str) -> None:
    """Send a heartbeat to a pipeline run. If `close_silent_runs` has closed the run, it is opened again."""
    client = connect()
    run = client.get_run(run_id)
    if Tag.SWEPT in run.data.tags:
        reopen(client, run)
    client.set_tag(run_id, Tag.HEARTBEAT, now())


def _find_parent(client: MlflowClient, job_id: str) -> MlflowRun | None:
    """The run of a pipeline job, and not a run of its variants or a run that KFP's plug-in created for a task."""
    named = f"tags.`{Tag.JOB}` = '{without_quotes(job_id)}' and tags.`{Tag.KEY}` LIKE '%'"
    found = _every(client, all_experiments(client), named)
    return found[0] if found else None


def mark_failed(run_id: str, step: str, label: str, text: str) -> None:
    """Record why a step failed on the pipeline run and, if it exists, on the run of the variant, which is closed.

    Args:
        run_id: MLflow's id of the pipeline run.
        step, label: the step, and the label of the variant or "".
        text: the error in one line.
    """
    client = connect()
    reason = f"{step} {label}: {text}" if label else f"{step}: {text}"
    _explain(client, run_id, "FAILED", reason)
    child = find_run(client, {"mlflow.parentRunId": run_id, Tag.LABEL: label}) if label else None
    if child is not None:
        _explain(client, child.info.run_id, "FAILED", f"{step}: {text}")
        client.set_terminated(child.info.run_id, "FAILED", own_end(child))


def mark_complete(run_id: str) -> None:
    """Record that all steps of a pipeline run have succeeded. The last step calls this.

    If MLflow is not available for too long, nothing is recorded, and the exit handler uses the state from Pipelines.
    """

    def say() -> None:
        client = connect()
        client.set_tag(run_id, Tag.COMPLETE, "true")
        _close(client, client.get_run(run_id), "FINISHED", "")

    with suppress(MlflowAway):
        persist(say, END_PATIENCE)


def mark_unchanged(run: Run) -> str | None:
    """Mark the run as skipped if a run with the same fingerprint has finished. Returns the id of that run."""
    client = connect()
    query = f"tags.`{Tag.FINGERPRINT}` = '{run.fingerprint}' and attributes.status = 'FINISHED'"
    found = _every(client, [experiment_id(client)], query)  # the newest first
    earlier = [r.info.run_id for r in found if r.info.run_id != run.tracking_run and Tag.SKIPPED not in r.data.tags]
    if not earlier:
        return None
    client.set_tag(run.tracking_run, Tag.SKIPPED, earlier[0])
    _close(client, client.get_run(run.tracking_run), "FINISHED", "")
    return earlier[0]


def mark_stopped(run_id: str) -> None:
    """Record that a pipeline run was stopped, unless it is complete. The next run with the same settings resumes it."""
    client = connect()
    run = client.get_run(run_id)
    if Tag.COMPLETE not in run.data.tags:
        _close(client, run, "KILLED", "stopped")


def _close(client: MlflowClient, run: MlflowRun, end: End, reason: str, silence: float = 0.0) -> list[str]:
    """Close a pipeline run and its open variants. Returns the names of these variants.

    Args:
        reason: shown in the description if the run did not succeed and no step has recorded an error.
        silence: seconds since its last sign of life, which its duration leaves out.
    """
    run_id, tags = run.info.run_id, run.data.tags
    closed = _close_variants(client, run, end, reason, silence)
    outdated = {Tag.SWEPT, Tag.ERROR} if end == "FINISHED" else {Tag.SWEPT}
    if end == "FINISHED" and tags.get(Tag.NOTE, "").startswith(ERROR_NOTES):
        outdated.add(Tag.NOTE)
    for tag in tags.keys() & outdated:
        client.delete_tag(run_id, tag)
    if reason and end != "FINISHED" and (Tag.ERROR not in tags or Tag.SWEPT in tags):
        _explain(client, run_id, end, reason)
    client.set_terminated(run_id, end, own_end(run, silence))
    return closed


def _close_variants(client: MlflowClient, run: MlflowRun, end: End, reason: str, silence: float = 0.0) -> list[str]:
    """Close the open variants of a run: as FINISHED if the run succeeded, or else as KILLED."""
    at_work = f"tags.`mlflow.parentRunId` = '{run.info.run_id}' and attributes.status = 'RUNNING'"
    closed = []
    for child in _every(client, [run.info.experiment_id], at_work):
        if end != "FINISHED":
            _explain(client, child.info.run_id, "KILLED", f"the pipeline run ended before this finished: {reason}")
        state = "FINISHED" if end == "FINISHED" else "KILLED"
        client.set_terminated(child.info.run_id, state, own_end(child, silence))
        closed.append(child.info.run_name or child.info.run_id)
    return closed


def close_ended(job_id: str, how: str, reason: str) -> Ended:
    """Close the run of a pipeline job and its open variants in MLflow, and return how the run ended.

    This is for the exit handler, which may know less about the run than its steps.

    Args:
        how: the final state from Pipelines. The state that the steps logged takes precedence.
        reason: why the run failed, or "".

    Raises:
        TrackingError: MLflow is not available.
    """

    def end() -> Ended:
        client = connect()
        run = _find_parent(client, job_id) or plugin_run(client)
        if run is None:
            progress.note("the run ended before it was logged to MLflow")
            return Ended(how, "", reason)
        tags = run.data.tags
        state = "SUCCEEDED" if Tag.COMPLETE in tags else "SKIPPED" if Tag.SKIPPED in tags else how
        why = reason or tags.get(Tag.ERROR, "")
        if state:
            _close(client, run, ENDS[state], why if state in ("FAILED", "CANCELED") else "")
        return Ended(state, run.info.run_id, why)

    return persist(end, END_PATIENCE)


def close_job(job_id: str, end: End, reason: str) -> list[str]:
    """Close the run of a pipeline job and its variants if they are open. Returns the names of the closed runs.

    This is for commands, where MLFLOW_RUN_ID may name a run that is not the pipeline's and never counts.
    If CLIPTEA_WEBHOOK is set, the webhook is notified of the closed run, because its exit task has not run.

    Args:
        end: final state of the run, if it is open.
        reason: shown in the description if the run did not succeed.

    Raises:
        TrackingError: MLflow is not available.
    """
    client = connect()
    run = _find_parent(client, job_id)
    if run is None:
        return []
    if run.info.status != "RUNNING":
        return _close_variants(client, run, end, reason)
    closed = _close(client, run, end, reason)
    post_state(job_id, NOTICES[end], reason, run.info.run_id)
    return [*closed, run.info.run_name or run.info.run_id]


def close_silent_runs(ended: Callable[[str], End | Literal["RUNNING"] | None] | None = None) -> list[str]:
    """Close all open runs without recent activity. Returns a line about each.

    Activity is a heartbeat on the run, or a status that its steps write to the store.

    Args:
        ended: returns how a pipeline job has ended. RUNNING means that it is active, for example waiting for a node,
            and is not closed even if it is silent for a long time. None means that the job is not known.
    """
    client, told, has_board = connect(), [], True
    at_work = f"tags.`{Tag.KEY}` LIKE '%' and attributes.status = 'RUNNING'"
    for listed in _every(client, known_experiments(client), at_work):
        if silence_of(listed) < QUIET_SECONDS:
            continue
        job_id = listed.data.tags.get(Tag.JOB, "")
        said = ended(job_id) if ended is not None else None
        statuses: list[StepStatus] = []
        if has_board:
            try:
                statuses = read_board(open_store(patience=BOARD_PATIENCE), job_id)
            except ClipteaError:
                has_board = False  # do not wait for the store again
        silence = min([silence_of(listed), *(time.time() - status.updated for status in statuses)])
        if said == "RUNNING" or silence < (SILENCE_SECONDS if said is None else QUIET_SECONDS):
            continue
        why = "Pipelines reports that it has ended" if said else f"no heartbeat for {_rough(silence)}"
        end, reason = _verdict(said, statuses, why)
        with suppress(MlflowException):  # the run was deleted in the meantime
            run = client.get_run(listed.info.run_id)
            if run.info.status == "RUNNING":
                client.set_tag(run.info.run_id, Tag.SWEPT, now())  # set first, so that a heartbeat can reopen it
                _close(client, run, end, reason, silence)
                post_state(job_id, NOTICES[end], reason, run.info.run_id)
                told.append(f"{run.info.run_name}: closed as {end}; {why}")
    return told + _close_orphans(client)


def _verdict(said: End | None, statuses: list[StepStatus], why: str) -> tuple[End, str]:
    """How and why a run ended, which MLflow does not know if it was not available at that time."""
    if said == "FINISHED" or any((status.step, status.state) == (LAST_STEP, "done") for status in statuses):
        return "FINISHED", ""
    if failed := [status for status in statuses if status.state == "failed"]:
        return "FAILED", failed[0].who
    return ("FAILED", why) if said == "FAILED" else ("KILLED", f"cancelled, or killed together with its steps: {why}")


def _close_orphans(client: MlflowClient) -> list[str]:
    """Close open variants whose pipeline run was closed, for example by KFP's plug-in. Returns a line about each."""
    told: list[str] = []
    parents: dict[str, MlflowRun] = {}
    at_work = f"tags.`{Tag.LABEL}` LIKE '%' and attributes.status = 'RUNNING'"
    for run in _every(client, known_experiments(client), at_work):
        above = run.data.tags.get("mlflow.parentRunId", "")
        with suppress(MlflowException):  # the pipeline run is deleted
            parent = parents[above] = parents.get(above) or client.get_run(above)
            if parent.info.status != "RUNNING":
                end = "FINISHED" if parent.info.status == "FINISHED" else "KILLED"
                client.set_terminated(run.info.run_id, end, own_end(run, silence_of(parent)))
                told.append(f"{run.info.run_name}: closed as {end}; its pipeline run has ended")
    return told


def run_address(job_id: str) -> str | None:
    """The address of a pipeline job's run in MLflow's user interface. None without a server or a run."""
    client = connect()
    run = _find_parent(client, job_id) if client.tracking_uri.startswith("http") else None
    if run is None:
        return None
    return f"{client.tracking_uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


def _every(client: MlflowClient, experiments: list[str], query: str) -> list[MlflowRun]:
    return list(all_pages(partial(client.search_runs, experiments, query))) if experiments else []


def _rough(seconds: float) -> str:
    return progress.clock(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def _explain(client: MlflowClient, run_id: str, end: End, reason: str) -> None:
    client.set_tag(run_id, Tag.ERROR, reason[:LONGEST_TAG])
    client.set_tag(run_id, Tag.NOTE, f"**{end}**: {reason[:LONGEST_TAG]}")
