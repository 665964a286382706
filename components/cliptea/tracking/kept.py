"""Which pipeline runs `cliptea clean` keeps, as MLflow and its model registry tell."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from cliptea.errors import ConfigError
from cliptea.tracking.mlflow_client import all_pages, connect, persist
from cliptea.tracking.run_times import Tag, real_end, silence_of
from cliptea.tracking.state import SILENCE_SECONDS

__all__ = ["RUNNING", "UNLISTED", "Kept", "kept_runs"]

RUNNING = "it is running"
UNLISTED = "the Kubeflow Pipelines that was asked does not list it"
CLOSED = ("FINISHED", "FAILED", "KILLED")  # states in MLflow; a run in any other state is open
RUN_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")

Reasons = dict[str, str]  # ids of runs in MLflow, and why each is kept


class Kept(NamedTuple):
    """Runs of which everything is kept, and those of which only models and results are."""

    whole: Reasons
    models: Reasons


def kept_runs(ids: Iterable[str], newest: int, seconds: float, jobs: Mapping[str, str] | None) -> Kept:
    """Those of the pipeline runs `ids` that are kept, and why. Nothing is changed in MLflow.

    A run is kept as a whole if it is running, if a registered model has given an alias such as champion to its model,
    if Pipelines uses it, or if MLflow does not know it. So is a run of a cluster that Pipelines does not list, because
    another namespace, which shares the store and MLflow, may use it. So are the `newest` finished runs and all runs
    that ended later, and those that ended less than `seconds` ago. Of the runs that other versions of registered models
    come from, models and results are kept.

    Args:
        ids: ids of pipeline runs in MLflow.
        jobs: all pipeline runs that Kubeflow Pipelines lists, by their ids there, and why it uses each one, or "".
            None if it was not asked.

    Raises:
        ConfigError: there are runs of a cluster, and Pipelines was not asked.
        TrackingError: MLflow is not available.
    """
    return persist(lambda: _kept(connect(), sorted(ids), newest, seconds, jobs))


def _kept(client: MlflowClient, ids: list[str], newest: int, seconds: float, jobs: Mapping[str, str] | None) -> Kept:
    found = {run_id: _find(client, run_id) for run_id in ids}
    runs = {run_id: run for run_id, run in found.items() if run is not None}
    present = {run_id: run for run_id, run in runs.items() if run.info.lifecycle_stage == "active"}
    if jobs is None and any(_is_of_cluster(run) for run in present.values()):
        raise ConfigError(
            "runs of a cluster have used this store, and its schedules are not known here",
            "the address of Kubeflow Pipelines",
            "add --endpoint, or set KFP_ENDPOINT",
        )
    aliased, registered = _registered(client)
    kept = _latest([run for run in present.values() if run.info.status in CLOSED], newest, seconds)
    kept |= aliased
    kept |= {run_id: why for run_id, run in present.items() if (why := _reason(run, jobs or {}))}
    kept |= {run_id: "MLflow does not know it" for run_id in found.keys() - runs.keys()}
    kept = {run_id: UNLISTED for run_id, run in present.items() if _is_unlisted(run, jobs or {})} | kept
    for run_id in list(kept):
        earlier = runs[run_id].data.tags.get(Tag.SKIPPED) if run_id in runs else None
        if earlier:
            kept.setdefault(earlier, "a later run found nothing new and refers to it")
    return Kept(
        {run_id: why for run_id, why in kept.items() if run_id in found},
        {run_id: why for run_id, why in registered.items() if run_id in found.keys() - kept.keys()},
    )


def _find(client: MlflowClient, run_id: str) -> MlflowRun | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _is_of_cluster(run: MlflowRun) -> bool:
    return run.data.tags.get(Tag.KEY) != run.data.tags.get(Tag.FINGERPRINT)


def _is_unlisted(run: MlflowRun, jobs: Mapping[str, str]) -> bool:
    return _is_of_cluster(run) and run.data.tags.get(Tag.JOB, "") not in jobs


def _reason(run: MlflowRun, jobs: Mapping[str, str]) -> str:
    """Why a run must be kept, whatever its age, or ""."""
    status = run.info.status
    if status not in CLOSED:
        return RUNNING
    # Pipelines can retry a run that has failed, and its state in MLflow stays the same.
    if _is_of_cluster(run) and status != "FINISHED" and silence_of(run) < SILENCE_SECONDS:
        return RUNNING
    return jobs.get(run.data.tags.get(Tag.JOB, ""), "")


def _latest(runs: list[MlflowRun], newest: int, seconds: float) -> Reasons:
    """The newest finished runs and everything after them, and what ended a short time ago. All of them are closed."""
    done = [run for run in runs if run.info.status == "FINISHED" and Tag.SKIPPED not in run.data.tags]
    ends = sorted(map(real_end, done), reverse=True)
    since = math.inf if newest == 0 else 0.0 if len(ends) < newest else ends[newest - 1]
    young = time.time() - seconds
    kept = {}
    for run in runs:
        if real_end(run) >= since:
            kept[run.info.run_id] = "it is one of the newest"
        elif real_end(run) > young:
            kept[run.info.run_id] = "it ended a short time ago"
    return kept


def _registered(client: MlflowClient) -> tuple[Reasons, Reasons]:
    """The pipeline runs that versions of registered models come from: of versions with an alias, and of all."""
    aliased: Reasons = {}
    registered: Reasons = {}
    aliases: dict[str, dict[str, str]] = {}
    for version in all_pages(client.search_model_versions):
        name = version.name
        if name not in aliases:
            aliases[name] = client.get_registered_model(name).aliases
        own = sorted(alias for alias, number in aliases[name].items() if str(number) == str(version.version))
        why = f"{name} version {version.version}{''.join(f' ({alias})' for alias in own)} comes from it"
        for run_id in {version.run_id or "", *RUN_ID.findall(version.source or "")} - {""}:
            run = _find(client, run_id)
            parent = run.data.tags.get("mlflow.parentRunId") if run else None
            for one in filter(None, (run_id, parent)):  # models are in the runs of variants
                registered.setdefault(one, why)
                if own:
                    aliased[one] = why
    return aliased, registered
