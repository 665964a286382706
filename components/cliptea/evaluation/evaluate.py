"""The evaluate step: one trained student on every evaluation set, scored and logged. CLIP is not loaded here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cliptea import progress
from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.data.split import Splits
from cliptea.evaluation.results import ResultRow
from cliptea.evaluation.tasks import Evaluated, EvaluationTask, evaluation_tasks
from cliptea.manifest import Manifest, Output, find, fingerprint, read_object
from cliptea.models.backbones import licence
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache, clustering_key
from cliptea.teacher.demo_clip import demo_fingerprint

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["evaluate_variant", "tell_scores"]

KIND = "evaluate"


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
    from cliptea.tracking.untold import Untold, model_place, tell, told

    telling = f"{fingerprint('evaluated', fps=fps)}-{model.fingerprint}"
    facts = told(store, run, telling)
    if None not in found.values() and facts is not None:
        progress.reused()
    manifests = {}
    for task in tasks:
        done = found[task.label]
        if done is None:
            from cliptea.evaluation.scoring import score_student

            done = score_student(store, f"{KIND}/{fps[task.label]}", config, task, cache, model)
        manifests[task.label] = done
    if facts is None:
        inputs = {
            "variant": variant,
            "splits": splits,
            "teacher": teacher,
            "trained": trained,
            "evaluated": {label: manifest.model_dump() for label, manifest in manifests.items()},
        }
        untold = Untold(kind="scores", what=f"scores and model of {chosen.label}", inputs=inputs)
        facts = tell(store, run, telling, tell_scores, untold)
    weights = store.uri(model.objects["model.safetensors"].key)
    place = {"model_uri": weights, "mlflow_run_id": ""} | model_place(facts)
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
            model_uri=place["model_uri"],
            mlflow_run_id=place["mlflow_run_id"],
        )
        for task in tasks
        for member in chosen.members
    ]
    measured = config.evaluation.model_dump(exclude={"figures", "sweep", "sets"})
    protocol = fingerprint("protocol", evaluation=measured, split=tasks[0].split.fingerprint)
    history = model.objects["history.json"]
    return Evaluated(rows=rows, telling=telling, manifests=manifests, history=history, protocol=protocol).model_dump()


def tell_scores(
    run: Run,
    variant: dict[str, Any],
    splits: dict[str, Any],
    teacher: dict[str, Any],
    trained: dict[str, Any],
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    """Log curves, scores and the model to the variant's MLflow run; returns its id.

    Scores on the data set itself carry plain names, those on a further set its name before them.

    Args:
        run: the pipeline run.
        variant, splits, teacher, trained: as of `evaluate_variant`.
        evaluated: dumped manifests of the scores, by evaluation set.
    """
    from cliptea.report.variant_figures import variant_figures
    from cliptea.runs import Variant
    from cliptea.tracking.data import dataset_inputs
    from cliptea.tracking.runs import ChildRun

    store, chosen = open_store(), Variant.model_validate(variant)
    config = chosen.config
    model, cache = Manifest.model_validate(trained), TeacherCache.model_validate(teacher)
    tasks = evaluation_tasks(config, Splits.model_validate(splits), cache)
    manifests = {label: Manifest.model_validate(manifest) for label, manifest in evaluated.items()}
    child = ChildRun.open(run, chosen)
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
        metrics["regions_per_view"] = cache.regions[clustering_key(config.method.clustering)].info["regions_per_view"]
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
        child.log_files(variant_figures(store, task.split, manifests[task.label]), f"figures/{task.label}")
    files = {
        "model.safetensors": read_object(store, model.objects["model.safetensors"]),
        "text.safetensors": read_object(store, tasks[0].text.objects["text.safetensors"]),
    }
    child.log_model(files, description)
    child.finish()
    return {"mlflow_run_id": child.run_id}


def _description(config: Config, task: EvaluationTask, model: Manifest) -> dict[str, Any]:
    """What `cliptea.segment` must know of a student besides its weights."""
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
