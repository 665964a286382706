"""Scores one student on the evaluation sets. CLIP is not loaded here."""

import io
import json
from functools import partial
from typing import Any, NamedTuple

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import SERVED, Config
from cliptea.data.catalogue import Catalogue, names_of
from cliptea.errors import named
from cliptea.evaluation.results import METRICS, Inference, ResultRow, Scored, scalars
from cliptea.manifest import (
    Contents,
    Manifest,
    Output,
    StoredObject,
    find_of,
    fingerprint,
    make_once,
    put_immutable,
    read_object,
)  # fmt: skip
from cliptea.models.backbones import licence
from cliptea.run import Run, Variant
from cliptea.segment.model_files import TRAINING_FEATURES
from cliptea.steps.component import step
from cliptea.steps.speed import inputs_of, measure_speed, open_student, speed_output
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.steps.train import iterations_per_epoch
from cliptea.storage import Store, open_store
from cliptea.teacher.demo_clip import demo_fingerprint
from cliptea.teacher.outputs import clustering_key
from cliptea.tracking.deferred import Entry, ModelPlace, Receipt, log_or_defer, receipt
from cliptea.tracking.origin import origin
from cliptea.training.history import HELD_OUT

__all__ = [
    "FIGURES", "Evaluated", "EvaluationTask", "ScoresEntry", "evaluate", "evaluate_variant", "evaluation_tasks",
    "scores_output",
]  # fmt: skip

RENAMED = "metric_names.json"  # artifact: metrics whose names differ from those of their classes
FIGURES = "figures.npz"  # the arrays that `cliptea.evaluation.scoring` returns in addition to the scores


@step()
def evaluate(
    run: dsl.Input[dsl.Artifact],
    shards: dsl.Input[dsl.Artifact],
    cache: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Artifact],
    variant: str,
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    from cliptea.manifest import Manifest
    from cliptea.steps.common import read, run_step, write
    from cliptea.steps.evaluate import evaluate_variant
    from cliptea.steps.split import Splits
    from cliptea.steps.teacher import TeacherCache

    def work(present):
        splits, teacher, trained = read(shards, Splits), read(cache, TeacherCache), read(model, Manifest)
        evaluated = evaluate_variant(present, present.variant(variant), splits, teacher, trained)
        write(scores, evaluated)
        for name, value in evaluated.scalars.items():
            metrics.log_metric(name, value)

    run_step("evaluate", work, run=run, label=variant)


class Evaluated(BaseModel):
    """The output of the evaluate step: a result row per group and evaluation set, and references to the rest."""

    rows: list[ResultRow]
    telling: str  # name of its `ScoresEntry`
    manifests: dict[str, Manifest]  # manifests of the scores by evaluation set; the training data set comes first
    history: StoredObject  # loss curves
    protocol: str  # fingerprint of the val images of the training data set and of how they are evaluated

    @property
    def scalars(self) -> dict[str, float]:
        """The scores that Pipelines compares."""
        return scalars(self.rows)


class EvaluationTask(NamedTuple):
    """One evaluation set for one student."""

    label: str
    split: Manifest
    text: Manifest
    gamma: float

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue.model_validate(self.split.info["catalogue"])


def evaluation_tasks(config: Config, splits: Splits, teacher: TeacherCache) -> list[EvaluationTask]:
    """The training data set, followed by the further evaluation sets in their order."""
    evaluation, shards = config.evaluation, splits.named(config.data.name)
    gammas = {config.data.name: evaluation.gamma} | {name: further.gamma for name, further in evaluation.sets.items()}
    return [EvaluationTask(label, shards[label], teacher.text[label], gamma) for label, gamma in gammas.items()]


def evaluate_variant(run: Run, variant: Variant, splits: Splits, teacher: TeacherCache, trained: Manifest) -> Evaluated:
    """Score one variant on every evaluation set, and log the results to its MLflow run."""
    store, config = open_store(), variant.config
    tasks, manifests, made = evaluation_tasks(config, splits, teacher), {}, False
    look = partial(find_of, inputs_of(trained))
    for task in tasks:
        output = scores_output(config, task, trained)
        work = partial(_score, store, output, config, task, teacher, trained)
        with named(variant.label):
            manifests[task.label], new = make_once(store, output, work, look)
        made = made or new
    output = speed_output(config, tasks[0].text, trained)
    with named(variant.label):
        speed, new = make_once(store, output, partial(measure_speed, store, config, tasks[0].text, trained), look)
    entry = ScoresEntry(
        variant=variant, splits=splits, teacher=teacher, trained=trained, evaluated=manifests, speed=speed
    )
    logged = receipt(store, run, entry.name)
    if logged is None:
        logged = log_or_defer(store, run, entry)
    elif not (made or new):
        progress.reused()
    place = logged.place() if logged else ModelPlace("", store.uri(trained.objects["model.safetensors"].key))
    measured = run.config.evaluation.counting("figures", "sweep", "sets")
    return Evaluated(
        rows=[row for task in tasks for row in _rows(variant, task, manifests[task.label], trained, speed, place)],
        telling=entry.name,
        manifests=manifests,
        history=trained.objects["history.json"],
        protocol=fingerprint("protocol", evaluation=measured, split=tasks[0].split.fingerprint),
    )


def scores_output(config: Config, task: EvaluationTask, trained: Manifest) -> Output:
    """The output for a student, the val images with their text features, and the evaluation settings."""
    fp = fingerprint(
        "evaluate",
        evaluation=config.evaluation.counting("sets", "gamma", "gamma_no_cls_token"),
        gamma=task.gamma,
        model=trained.fingerprint,
        split=task.split.fingerprint,
        text=task.text.fingerprint,
    )
    return Output("evaluate", fp)


def _score(
    store: Store, output: Output, config: Config, task: EvaluationTask, teacher: TeacherCache, trained: Manifest
) -> Contents:
    """The student's scores on one evaluation set, and the arrays for the figures.

    The attention maps among them need the CLS tokens that the teacher has stored. That of the training data set also
    has the distribution of the student's features over training images, which `predict` compares its images with.
    """
    import numpy as np

    from cliptea import device
    from cliptea.data.records import chosen_images, read_pair
    from cliptea.data.shards import ShardReader
    from cliptea.evaluation.scoring import attention_maps, fit_training_features, score_student
    from cliptea.teacher.text import load_text

    device.prepare()
    student = open_student(store, config, trained)
    reader, text_ND = ShardReader(store, task.split.objects, "val"), load_text(store, task.text)
    settings = config.evaluation.model_copy(update={"gamma": task.gamma})
    devices = device.every()
    scored, arrays = score_student(
        student,
        reader.names,
        partial(read_pair, reader),
        task.catalogue,
        text_ND.to(device.best()),
        settings,
        task.label,
        devices,
    )
    objects = {}
    if task.label == config.data.name:
        images = ShardReader(store, task.split.objects, "train")
        cls, names = ShardReader(store, teacher.tokens.objects, "cls"), chosen_images(images.names, settings.figures)
        arrays |= attention_maps(student, images, cls, names, config)
        if features := fit_training_features(student, images, int(trained.info["dim"]), settings, devices):
            stem = f"{output.prefix}/training_features"
            objects[TRAINING_FEATURES] = put_immutable(store, stem, ".safetensors", features.dump())
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict[str, Any](arrays))
    objects[FIGURES] = put_immutable(store, f"{output.prefix}/figures", ".npz", buffer.getvalue())
    return Contents(objects, scored.model_dump(), inputs_of(trained))


def _rows(
    variant: Variant,
    task: EvaluationTask,
    scores: Manifest,
    trained: Manifest,
    speed: Manifest,
    place: ModelPlace,
) -> list[ResultRow]:
    """One row for each group that lists the variant."""
    scored, config = Scored.model_validate(scores.info), variant.config
    validation = trained.info.get("validation", {})
    return [
        ResultRow(
            variant=member.variant,
            group=member.group,
            backbone=config.student.backbone,
            dataset=task.label,
            seed=variant.seed,
            iterations=validation.get("iteration", config.train.iterations),
            gamma=task.gamma,
            **scored.scores.model_dump(),
            per_class=scored.per_class,
            training_images_per_second=trained.info["images_per_second"],
            inference=Inference.model_validate(speed.info),
            **place._asdict(),
            heldout_miou_seen=validation.get(HELD_OUT),
            trial=member.trial,
        )
        for member in variant.members
    ]


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
        description = _description(run, config, tasks[0], model)
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


def _description(run: Run, config: Config, task: EvaluationTask, model: Manifest) -> dict[str, Any]:
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
        | {"demo": demo_fingerprint(config) if teacher.source.kind == "demo" else None}
        | {"synonyms": names_of(task.catalogue.classes, config.data.synonyms)},
    }
