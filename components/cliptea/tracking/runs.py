"""MLflow runs: one for each pipeline run, and a child run for each variant, with their tables."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric
from mlflow.models import Model
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_MODELS

from cliptea import env, progress
from cliptea.evaluation.results import ResultRow
from cliptea.files import SUMS, sums
from cliptea.messages import shortened
from cliptea.run import Run, Variant
from cliptea.storage.local_files import escaped_path
from cliptea.tracking.artifacts import require_artifacts
from cliptea.tracking.experiment import experiment_id, find_run, leftovers, plugin_run, show_scores_first
from cliptea.tracking.metric_names import chunks, log_params, metric_name
from cliptea.tracking.mlflow_client import connect
from cliptea.tracking.model import save_model
from cliptea.tracking.origin import origin
from cliptea.tracking.run_times import Tag, now, own_end, reopen
from cliptea.training.history import HELD_OUT

__all__ = ["ChildRun", "log_best", "log_table", "open_parent"]

METRICS_PER_CALL = 900
LONGEST_RUN_NAME = 240  # characters; MLflow's databases take 250, and `shortened` adds some
SHOWN = 8  # digits of a pipeline run's key in names


def open_parent(run: Run) -> str:
    """Find or create the MLflow run of a pipeline run. Returns its id.

    On one machine, runs with the same settings and data are the same run. On a cluster, every submission is a separate
    run. If KFP's MLflow plug-in has created a run for it, that run is used.
    """
    client, config = connect(), run.config
    show_scores_first(client)
    for name in leftovers():
        progress.note(f"{name} is ignored: it must come from another job, because a run on one machine does not set it")
    key = _key(run)
    found = plugin_run(client) or find_run(client, {Tag.KEY: key})
    if found is None:
        part = f" · part {run.part.name}" if run.part.of > 1 else ""
        name = shortened(f"{config.preset} · {config.data.name} · {key[:SHOWN]}{part}", LONGEST_RUN_NAME)
        found = client.create_run(experiment_id(client), tags={Tag.KEY: key}, run_name=name)
    run_id = found.info.run_id
    require_artifacts(str(found.info.artifact_uri))
    tags = {
        Tag.KEY: key,
        "cliptea.preset": config.preset,
        Tag.FINGERPRINT: run.fingerprint,
        Tag.JOB: run.job_id,
    }
    reopen(client, found)
    for tag, value in {**tags, Tag.HEARTBEAT: now(), **origin(run.job_id)}.items():
        client.set_tag(run_id, tag, value)
    settings = run.config.model_dump(mode="json", exclude={"variant_groups"})  # each student's run has its settings
    log_params(client, run_id, settings | {"data.digest": run.data_digest})
    return run_id


def log_best(run: Run, row: ResultRow) -> None:
    """Log the scores of the best model to the pipeline run, so that MLflow's charts can compare pipeline runs."""
    scores = {"hiou": row.hiou, "miou_unseen": row.miou_unseen, "miou_seen": row.miou_seen, "pacc": row.pAcc}
    best = {"cliptea.best": f"{row.group}/{row.variant} seed {row.seed}"}
    ChildRun(connect(), run.tracking_run).log_result(scores, best)


def log_table(run_id: str, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Store rows in the format that MLflow's user interface shows and `load_table` reads.

    An existing table is replaced (MLflow's own `log_table` would append).

    Args:
        rows: all with the same columns.
        name: name of the artifact, such as variants.json.
    """
    client = connect()
    columns = list(rows[0])
    client.log_dict(run_id, {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}, name)
    try:
        listed = json.loads(client.get_run(run_id).data.tags.get(Tag.TABLES, "[]"))
    except ValueError:  # somebody has changed it
        listed = []
    entry = {"path": name, "type": "table"}
    if entry not in listed:
        client.set_tag(run_id, Tag.TABLES, json.dumps([*listed, entry]))


def _key(run: Run) -> str:
    return run.fingerprint if env.in_local_run() else run.job_id


class ChildRun:
    """The MLflow run of one variant. It is safe to log the same values again."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client, self.run_id = client, run_id
        self._last_step: int | None = None

    @classmethod
    def open(cls, run: Run, variant: Variant) -> ChildRun:
        """Find or create the run of a variant, as a child of the pipeline run."""
        client = connect()
        config = variant.config
        key = {"mlflow.parentRunId": run.tracking_run, Tag.LABEL: variant.label}
        found = find_run(client, key)
        if found is None:
            found = client.create_run(
                experiment_id(client),
                tags=key
                | _sweep_tag(variant)
                | {
                    "group": ", ".join(member.group for member in variant.members),
                    "variant": ", ".join(member.variant for member in variant.members),
                    "backbone": config.student.backbone,
                    "dataset": config.data.name,
                    "run": _key(run)[:SHOWN],  # as in the name of the parent run, to tell them apart
                }
                | origin(run.job_id),
                run_name=_run_name(variant, config.student.backbone, config.data.name),
            )
            # MLflow's page of comparisons opens with the metric that came first. NaN means that it is not known yet.
            client.log_metric(found.info.run_id, "hiou", math.nan, step=0)
        require_artifacts(str(found.info.artifact_uri))
        child = cls(client, found.info.run_id)
        reopen(client, found)
        client.set_tag(child.run_id, Tag.NOTE, f"{variant.members[0].about}.")
        log_params(client, child.run_id, config.model_dump(mode="json") | {"seed": variant.seed})
        return child

    def monitor(self) -> SystemMetricsMonitor:
        """Log CPU, memory, disk, network and GPUs as system/NAME from now on, until `finish()` of the monitor."""
        uri = self._client.tracking_uri
        monitor = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=uri)
        monitor.start()
        return monitor

    def log_curves(self, curves: list[dict[str, float]], epoch: float) -> None:
        """Log the loss terms, scores and epochs of iterations that are not logged yet.

        Args:
            curves: mean terms of each logging interval with its last iteration, and the score if it was validated.
            epoch: number of iterations per epoch, in which each image is shown once on average.
        """
        if self._last_step is None:
            logged = self._client.get_metric_history(self.run_id, "loss/total")
            self._last_step = max((metric.step for metric in logged), default=-1)
        new = [point for point in curves if point["iteration"] > self._last_step]
        now = int(time.time() * 1000)
        per_call = max(1, METRICS_PER_CALL // max((len(point) for point in new), default=1))
        for part in chunks(new, per_call):
            self._client.log_batch(
                self.run_id,
                metrics=[
                    Metric(name, value, now, int(point["iteration"]))
                    for point in part
                    for name, value in _metrics(point, epoch).items()
                ],
            )
            self._last_step = int(part[-1]["iteration"])

    def log_result(self, metrics: Mapping[str, float | None], tags: Mapping[str, Any]) -> None:
        """Log final metrics and set tags. Metrics that are None or logged already are left out.

        A student that was deleted and trained again may have other scores. MLflow then shows the later ones.
        """
        logged = self._client.get_run(self.run_id).data.metrics
        values = {metric_name(name): value for name, value in metrics.items()}
        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, 0)
            for name, value in values.items()
            if value is not None and logged.get(name) != value
        ]
        for part in chunks(new, METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=part)
        for name, value in tags.items():
            self._client.set_tag(self.run_id, name, str(value))

    def log_data(self, inputs: Sequence[DatasetInput]) -> None:
        """Log data sets that are not logged yet."""
        self._client.log_inputs(self.run_id, inputs)

    def log_files(self, files: Mapping[str, bytes], name: str | None = None) -> None:
        """Store files as artifacts, below `name` if it is given. Existing files are replaced."""
        with TemporaryDirectory() as folder:
            for file, data in files.items():
                path = Path(folder) / escaped_path(file)  # names of images in a bucket may be any text
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            self._client.log_artifacts(self.run_id, folder, name)

    def log_model(self, files: dict[str, bytes], description: Mapping[str, Any]) -> None:
        """Store a student as the artifact `model`, for `mlflow.pyfunc.load_model("runs:/ID/model")`.

        Args:
            files: content of the student's files by name.
            description: content of model.json.
        """
        with TemporaryDirectory() as folder:
            student, model = Path(folder) / "student", Path(folder) / "model"
            student.mkdir()
            for name, data in (files | {"model.json": json.dumps(description, indent=1).encode()}).items():
                (student / name).write_bytes(data)
            (student / SUMS).write_bytes(sums({file.name: file.read_bytes() for file in student.iterdir()}))
            save_model(model, student, description["classes"], description["unseen"])
            # This file marks the folder as a model. It comes last, so that a killed run leaves no incomplete model.
            last = (model / "MLmodel").rename(Path(folder) / "MLmodel")
            self._client.log_artifacts(self.run_id, str(model), "model")
            self._client.log_artifact(self.run_id, str(last), "model")
            described = yaml.safe_load(last.read_text("utf-8"))  # `Model.load` would decode the path
            shown = Model.from_dict(described).get_tags_dict() | {"artifact_path": "model", "run_id": self.run_id}
            self._client.set_tag(self.run_id, MLFLOW_LOGGED_MODELS, json.dumps([shown]))

    def finish(self) -> None:
        self._client.set_terminated(self.run_id, "FINISHED", own_end(self._client.get_run(self.run_id)))


def _metrics(point: Mapping[str, float], epoch: float) -> dict[str, float]:
    losses = {f"loss/{name}": value for name, value in point.items() if name not in ("iteration", HELD_OUT)}
    score = {"train/heldout_miou_seen": point[HELD_OUT]} if HELD_OUT in point else {}
    return losses | score | {"train/epoch": point["iteration"] / epoch}  # last: MLflow compares runs by the first


def _sweep_tag(variant: Variant) -> dict[str, str]:
    """The sweeps that a student is a trial of, by which MLflow's page can filter."""
    sweeps = [f"{member.group}/{member.trial.sweep}" for member in variant.members if member.trial]
    return {"sweep": ", ".join(sweeps)} if sweeps else {}


def _run_name(variant: Variant, backbone: str, dataset: str) -> str:
    """What differs within a pipeline run comes first, because MLflow's page cuts long names."""
    names = dict.fromkeys(member.variant for member in variant.members if member.variant != backbone)
    parts = [*(names or [backbone]), f"seed {variant.seed}", *([backbone] if names else []), dataset]
    return shortened(" · ".join(parts), LONGEST_RUN_NAME)
