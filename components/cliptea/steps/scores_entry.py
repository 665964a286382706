"""What an evaluated student puts into its MLflow run: curves, scores, figures and the model."""

from __future__ import annotations

import io
import json
from typing import Any

from cliptea.config import SERVED, Config
from cliptea.data.catalogue import names_of
from cliptea.evaluation.results import METRICS, Inference, Scored
from cliptea.manifest import Manifest, fingerprint, read_object
from cliptea.models.backbones import licence
from cliptea.run import Run, Variant
from cliptea.segment.model_files import TRAINING_FEATURES
from cliptea.steps.evaluation_tasks import FIGURES, EvaluationTask, evaluation_tasks
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.steps.train import iterations_per_epoch
from cliptea.storage import Store, open_store
from cliptea.teacher.demo_clip import demo_fingerprint
from cliptea.teacher.outputs import clustering_key
from cliptea.tracking.deferred import Entry, Receipt
from cliptea.tracking.origin import origin
from cliptea.training.history import HELD_OUT

__all__ = ["ScoresEntry"]

RENAMED = "metric_names.json"  # artifact: metrics whose names differ from those of their classes


class ScoresEntry(Entry):
    """Curves, scores, figures and the model of a variant, for its MLflow run.

    Scores on the training data set have plain names. Scores on a further set have the name of the set as a prefix.
    """

    kind = "scores"
    variant: Variant
    splits: Splits
    teacher: TeacherCache
    trained: Manifest
    evaluated: dict[str, Manifest]  # the scores, by evaluation set
    speed: Manifest

    @property
    def name(self) -> str:
        fps = {label: [manifest.fingerprint, manifest.inputs] for label, manifest in self.evaluated.items()}
        return f"{fingerprint('evaluated', fps=fps)}-{self.trained.fingerprint}"

    @property
    def what(self) -> str:
        return f"scores and model of {self.variant.label}"

    def log(self, run: Run) -> Receipt:
        from cliptea.tracking.data_inputs import dataset_inputs
        from cliptea.tracking.metric_names import renamed_metrics
        from cliptea.tracking.runs import ChildRun

        store, config, model = open_store(), self.variant.config, self.trained
        tasks = evaluation_tasks(config, self.splits, self.teacher)
        child = ChildRun.open(run, self.variant)
        child.log_data(dataset_inputs(config, {task.label: task.split for task in tasks}))
        curves = json.loads(read_object(store, model.objects["history.json"]))
        child.log_curves(curves, iterations_per_epoch(config, tasks[0].split))
        description = _description(run, config, tasks[0], model, self.teacher.tokens.info["clip_sha256"])
        known = {
            "gamma": tasks[0].gamma,
            "setting": config.method.transductive.setting,
            "parameters": model.info["parameters"],
            "inference_device": self.speed.info["device"],
            "inference_size": self.speed.info["size"],
            "licence": description["licence"] or "none",
        }
        child.log_result(self._metrics(tasks), known)
        if renamed := {metric: name for task in tasks for name, metric in renamed_metrics(task.catalogue).items()}:
            child.log_files({RENAMED: json.dumps(renamed, indent=1).encode()})
        for task in tasks:
            child.log_files(_figures(store, task, self.evaluated[task.label]), f"figures/{task.label}")
        files = {
            "model.safetensors": read_object(store, model.objects["model.safetensors"]),
            "text.safetensors": read_object(store, tasks[0].text.objects["text.safetensors"]),
        }
        own = self.evaluated[tasks[0].label].objects
        if TRAINING_FEATURES in own:
            files[TRAINING_FEATURES] = read_object(store, own[TRAINING_FEATURES])
        child.log_model(files, description)
        child.finish()
        return Receipt(mlflow_run_id=child.run_id)

    def _metrics(self, tasks: list[EvaluationTask]) -> dict[str, float | None]:
        from cliptea.tracking.metric_names import CLASSES, metric_name

        config, info = self.variant.config, self.trained.info
        speed = Inference.model_validate(self.speed.info)
        metrics: dict[str, float | None] = {}
        for task in tasks:
            before = "" if task is tasks[0] else f"{task.label}/"
            scores = Scored.model_validate(self.evaluated[task.label].info).scores
            metrics |= {f"{before}{name.lower()}": getattr(scores, name) for name in reversed(METRICS)}
        metrics |= {
            "throughput/training_images_per_second": info["images_per_second"],
            "throughput/data_wait": info["data_wait"],
        }
        if "validation" in info:
            metrics[HELD_OUT] = info["validation"][HELD_OUT]
            metrics["kept_iteration"] = info["validation"]["iteration"]
            metrics["throughput/validation_seconds"] = info["validation"]["seconds"]
        measured = ("latency_ms", "images_per_second", "peak_memory_mib", "gflops")
        metrics |= {f"inference/{name}": getattr(speed, name) for name in measured}
        if "peak_memory_bytes" in info:
            metrics["gpu_memory_gib"] = info["peak_memory_bytes"] / 2**30
        if config.method.pseudo:
            regions = self.teacher.regions[clustering_key(config.method.clustering)]
            metrics["regions_per_view"] = regions.info["regions_per_view"]
        for task in tasks:
            before = "" if task is tasks[0] else f"{task.label}/"
            scored = Scored.model_validate(self.evaluated[task.label].info)
            metrics |= {metric_name(f"{before}{CLASSES}", name): value for name, value in scored.per_class.items()}
        return metrics


def _figures(store: Store, task: EvaluationTask, scores: Manifest) -> dict[str, bytes]:
    import numpy as np

    from cliptea.data.shards import ShardReader
    from cliptea.report.variant_figures import variant_figures

    reader = ShardReader(store, task.split.objects, "val")
    with np.load(io.BytesIO(read_object(store, scores.objects[FIGURES]))) as arrays:
        return variant_figures(reader, task.catalogue.classes, arrays)


def _description(run: Run, config: Config, task: EvaluationTask, model: Manifest, clip_sha256: str) -> dict[str, Any]:
    """The content of model.json: everything except the weights that `cliptea.segment` needs for a student."""
    teacher, given = config.teacher, config.train.init_from
    known = run.initial[given].info["licence"] if given else licence(config.student.backbone, config.encoder_weights)
    earlier = run.initial[given].info["seen"] if given else []
    return {
        "backbone": config.student.backbone,
        "licence": known or "",  # for the initial weights
        "dataset": config.data.name,
        "origin": {tag: value for tag, value in origin("").items() if tag in ("cliptea.version", "git.commit")},
        "dim": model.info["dim"],
        "classes": task.catalogue.classes,
        "unseen": task.catalogue.unseen,
        "learned_before": [name for name in earlier if name not in task.catalogue.classes],
        "evaluation": config.evaluation.model_dump(include=SERVED) | {"gamma": task.gamma},
        "feature_norm": config.method.feature_norm,
        "setting": config.method.transductive.setting,
        "teacher": teacher.model_dump(include={"weights", "model", "templates", "crop"})
        | {"sha256": clip_sha256, "demo": demo_fingerprint(config) if teacher.source.kind == "demo" else None}
        | {"synonyms": names_of(task.catalogue.classes, config.data.synonyms)},
    }
