"""The evaluate step: one trained student on every evaluation set, scored and logged. CLIP is not loaded here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.data.split import Splits
from cliptea.evaluation.results import ResultRow
from cliptea.manifest import Manifest, Output, StoredObject, find, fingerprint, read_object
from cliptea.models.backbones import licence
from cliptea.storage import Store, open_store
from cliptea.teacher.cache import TeacherCache, clustering_key
from cliptea.teacher.demo_clip import demo_fingerprint

if TYPE_CHECKING:
    from cliptea.runs import Run, Variant

__all__ = ["Evaluated", "EvaluationTask", "chosen_images", "evaluate_variant", "evaluation_tasks"]

KIND = "evaluate"


class Evaluated(BaseModel):
    """What an evaluated variant hands on: a result row for each group and evaluation set, and where the rest lies."""

    rows: list[ResultRow]
    manifests: dict[str, Manifest]  # by evaluation set, the data set itself first
    history: StoredObject
    protocol: str  # fingerprint of the data set's own val images and how they are measured


class EvaluationTask(NamedTuple):
    """One evaluation set for one student."""

    label: str
    split: Manifest
    text: Manifest
    gamma: float


def evaluation_tasks(config: Config, splits: Splits, teacher: TeacherCache) -> list[EvaluationTask]:
    """The data set itself, then the further sets in their order."""
    evaluation = config.evaluation
    own_gamma = evaluation.gamma if config.method.losses.cls_token else evaluation.gamma_no_cls_token
    gammas = {config.data.dataset: own_gamma} | {name: further.gamma for name, further in evaluation.sets.items()}
    shards = {config.data.dataset: splits.own, **splits.others}
    return [EvaluationTask(label, shards[label], teacher.text[label], gamma) for label, gamma in gammas.items()]


def chosen_images(names: Sequence[str], figures: int | list[str]) -> list[str]:
    """Those of the names that are shown in figures: the first ones, or the ones asked for."""
    return list(names[:figures]) if isinstance(figures, int) else [name for name in names if name in figures]


def evaluate_variant(
    run: Run, variant: dict[str, Any], splits: dict[str, Any], teacher: dict[str, Any], trained: dict[str, Any]
) -> dict[str, Any]:
    """Score one variant on every evaluation set and log it to its MLflow run; returns a dumped `Evaluated`."""
    from cliptea.runs import Variant

    chosen, store = Variant.model_validate(variant), open_store()
    config = chosen.config
    model, cache = Manifest.model_validate(trained), TeacherCache.model_validate(teacher)
    tasks = evaluation_tasks(config, Splits.model_validate(splits), cache)
    settings = config.evaluation.model_dump(exclude={"sets", "gamma", "gamma_no_cls_token"})
    fps = {
        task.label: fingerprint(
            KIND,
            evaluation=settings,
            gamma=task.gamma,
            model=model.fingerprint,
            split=task.split.fingerprint,
            text=task.text.fingerprint,
        )
        for task in tasks
    }
    found = {label: find(store, Output(KIND, fp)) for label, fp in fps.items()}
    tracked_key = f"tracked/{run.tracking_run}/{fingerprint('evaluated', fps=fps)}-{model.fingerprint}.json"
    if None not in found.values() and store.size(tracked_key) is not None:
        progress.reused()
    manifests = {}
    for task in tasks:
        done = found[task.label]
        if done is None:
            from cliptea.evaluation.scoring import score_student

            done = score_student(store, f"{KIND}/{fps[task.label]}", config, task, cache, model)
        manifests[task.label] = done
    if store.size(tracked_key) is None:
        from cliptea.tracking.client import told_later

        with told_later("scores and model"):
            run_id = _track(store, run, chosen, config, tasks, cache, model, manifests)
            store.put(tracked_key, json.dumps({"mlflow_run_id": run_id}).encode())
    tracked = store.size(tracked_key) is not None
    run_id = json.loads(store.get(tracked_key))["mlflow_run_id"] if tracked else ""
    weights = store.uri(model.objects["model.safetensors"].key)
    rows = [
        ResultRow(
            variant=member.variant,
            group=member.group,
            backbone=config.student.backbone,
            dataset=task.label,
            seed=chosen.seed,
            iterations=config.train.iterations,
            gamma=task.gamma,
            **manifests[task.label].info["scores"],
            per_class=manifests[task.label].info["per_class"],
            images_per_second=model.info["images_per_second"],
            model_uri=f"runs:/{run_id}/model" if tracked else weights,
            mlflow_run_id=run_id,
        )
        for task in tasks
        for member in chosen.members
    ]
    measured = config.evaluation.model_dump(exclude={"figures", "sweep", "sets"})
    protocol = fingerprint("protocol", evaluation=measured, split=tasks[0].split.fingerprint)
    history = model.objects["history.json"]
    return Evaluated(rows=rows, manifests=manifests, history=history, protocol=protocol).model_dump()


def _track(
    store: Store,
    run: Run,
    variant: Variant,
    config: Config,
    tasks: list[EvaluationTask],
    teacher: TeacherCache,
    model: Manifest,
    manifests: dict[str, Manifest],
) -> str:
    """Log curves, scores and the model to the variant's MLflow run; returns its id.

    Scores on the data set itself carry plain names, those on a further set its name before them.
    """
    from cliptea.evaluation.tracked import tracked_files
    from cliptea.tracking.data import dataset_inputs
    from cliptea.tracking.runs import ChildRun

    child = ChildRun.open(run, variant)
    child.log_data(dataset_inputs(config, {task.label: task.split for task in tasks}))
    epoch = tasks[0].split.info["counts"]["train"]["images"] / config.train.batch_size
    child.log_curves(json.loads(read_object(store, model.objects["history.json"])), epoch)
    metrics: dict[str, float | None] = {
        "throughput/images_per_second": model.info["images_per_second"],
        "throughput/data_wait": model.info["data_wait"],
    }
    if "peak_memory_bytes" in model.info:
        metrics["gpu_memory_gib"] = model.info["peak_memory_bytes"] / 2**30
    if config.method.pseudo:
        metrics["regions_per_view"] = teacher.regions[clustering_key(config.method.clustering)].info["regions_per_view"]
    for task in tasks:
        before = "" if task is tasks[0] else f"{task.label}/"
        info = manifests[task.label].info
        metrics |= {f"{before}{name.lower()}": value for name, value in info["scores"].items()}
        metrics |= {f"{before}iou/{name}": value for name, value in info["per_class"].items()}
    description = _description(config, tasks[0], model)
    known = {
        "gamma": tasks[0].gamma,
        "parameters": model.info["parameters"],
        "licence": description["licence"] or "none",
    }
    child.log_result(metrics, known)
    for task in tasks:
        child.log_files(tracked_files(store, task.split, manifests[task.label]), f"figures/{task.label}")
    files = {
        "model.safetensors": read_object(store, model.objects["model.safetensors"]),
        "text.safetensors": read_object(store, tasks[0].text.objects["text.safetensors"]),
    }
    child.log_model(files, description)
    child.finish()
    return child.run_id


def _description(config: Config, task: EvaluationTask, model: Manifest) -> dict[str, Any]:
    """What `cliptea.serving` must know of a student besides its weights."""
    catalogue, teacher = Catalogue.model_validate(task.split.info["catalogue"]), config.teacher
    return {
        "backbone": model.info["backbone"],
        "licence": licence(config.student.backbone, config.student.initial_weights) or "",  # of its initial weights
        "dim": model.info["dim"],
        "classes": catalogue.classes,
        "unseen": catalogue.unseen,
        "evaluation": config.evaluation.model_dump(include={"scale", "divisor", "mode", "window", "stride"})
        | {"gamma": task.gamma},
        "teacher": teacher.model_dump(include={"weights", "model", "templates", "crop"})
        | {"demo": demo_fingerprint(config) if teacher.source.kind == "demo" else None},
    }
