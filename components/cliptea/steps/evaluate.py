"""Scores one student on the evaluation sets. CLIP is not loaded here."""

import io
from functools import partial
from typing import Any

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config
from cliptea.errors import named
from cliptea.evaluation.results import Inference, ResultRow, Scored, scalars
from cliptea.manifest import Contents, Manifest, Output, StoredObject, find_of, fingerprint, make_once, put_immutable
from cliptea.run import Run, Variant
from cliptea.segment.model_files import TRAINING_FEATURES
from cliptea.steps.component import step
from cliptea.steps.evaluation_tasks import FIGURES, EvaluationTask, evaluation_tasks, scores_output
from cliptea.steps.scores_entry import ScoresEntry
from cliptea.steps.speed import inputs_of, measure_speed, open_student, speed_output
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import Store, open_store
from cliptea.tracking.deferred import ModelPlace, log_or_defer, receipt
from cliptea.training.history import HELD_OUT

__all__ = ["Evaluated", "evaluate", "evaluate_variant"]


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


def _score(
    store: Store, output: Output, config: Config, task: EvaluationTask, teacher: TeacherCache, trained: Manifest
) -> Contents:
    """The student's scores on one evaluation set, and the arrays for the figures.

    The attention maps among them need the CLS tokens that the teacher has stored. The output for the training data set
    also has the distribution of the student's features over training images, which `predict` compares its images with.
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
