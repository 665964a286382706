"""The report of 200 models and 171 classes: seconds and MiB."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from benchmarks.measure import Bench, Row
from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import METRICS, ResultRow, Scores
from cliptea.report.context import AttentionPicture, PredictionPicture, ReportContext, RunFacts
from cliptea.report.page import build_report
from cliptea.steps.gather import PICTURED

IMAGES, SIDE, TERMS = 4, 512, 6
SECONDS, MIB = 10, 15


def measure(bench: Bench) -> Iterator[Row]:
    """Pictures of noise in blocks, which compress like photos; label maps of random blocks."""
    models, classes = (4, 8) if bench.quick else (200, 171)
    context = _context(models, classes)
    start = time.perf_counter()
    page = build_report(context)
    seconds, mib = time.perf_counter() - start, len(page.encode()) / 2**20
    name = f"report of {models} models and {classes} classes"
    yield Row(f"{name}, time", f"{seconds:.1f} s", f"the goal, {SECONDS} s", seconds / SECONDS, 1, at_most=True)
    yield Row(f"{name}, size", f"{mib:.1f} MiB", f"the goal, {MIB} MiB", mib / MIB, 1, at_most=True)


def _context(models: int, number: int) -> ReportContext:
    rng = np.random.default_rng(0)
    classes = [f"class number {index}" for index in range(number)]
    rows = [_row(rng, model, classes) for model in range(models)]
    shown = [row.label for row in rows[:PICTURED]]
    images = [_blocks(rng, 200, 3) + rng.integers(0, 8, (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(IMAGES)]
    scores = {row.variant: Scores(**{metric: getattr(row, metric) for metric in METRICS}) for row in rows}
    steps, terms = range(20, 20_001, 20), [f"term{term}" for term in range(TERMS)]
    facts = RunFacts(
        title="many models",
        preset="coco_stuff",
        dataset="coco_stuff",
        data_seed=0,
        images={"coco_stuff": {"train": 118_000, "val": 5_000}},
        catalogue=Catalogue(classes=classes, unseen=classes[: number // 10 or 1]),
        gamma=0.0,
        teacher="random numbers",
        stand_in=True,
        candidates=[row.label for row in rows],
        seeds=[0],
        iterations=20_000,
        data_digest="0" * 12,
        versions={},
        mlflow_run_id="0" * 12,
        mlflow_command="",
    )
    return ReportContext(
        facts=facts,
        rows=rows,
        sweep=[(row, {str(gamma / 10): scores[row.variant] for gamma in range(10)}) for row in rows],
        losses={
            own: {term: list(zip(steps, rng.random(len(steps)).tolist(), strict=True)) for term in terms}
            for own in shown
        },
        predictions=[
            PredictionPicture(f"val/{place}", image, _blocks(rng, number), {own: _blocks(rng, number) for own in shown})
            for place, image in enumerate(images)
        ],
        attention=[
            AttentionPicture(f"train/{place}", image, {own: rng.random((32, 32)) for own in shown})
            for place, image in enumerate(images)
        ],
        confusions={
            own: rng.integers(0, 1000, (number, number)) * (rng.random((number, number)) < 0.1) for own in shown
        },
    )


def _row(rng: np.random.Generator, model: int, classes: list[str]) -> ResultRow:
    scores = dict.fromkeys(METRICS, float(rng.random()))
    return ResultRow(
        variant=f"v{model}",
        group=f"group{model // 10}",
        backbone="segformer_b0",
        dataset="coco_stuff",
        seed=0,
        iterations=20_000,
        gamma=0.0,
        per_class={name: float(rng.random()) for name in classes},
        training_images_per_second=100.0,
        model_uri=f"runs:/{model}/model",
        mlflow_run_id=str(model),
        **scores,
    )


def _blocks(rng: np.random.Generator, values: int, *channels: int) -> np.ndarray:
    """(SIDE, SIDE, *channels) uint8 of random values in blocks of 32 pixels."""
    small = rng.integers(0, values, (SIDE // 32, SIDE // 32, *channels)).astype(np.uint8)
    return small.repeat(32, 0).repeat(32, 1)
