"""Training by two processes against one, a thread each, with the same global batch. That they agree is a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from statistics import median

from cliptea.teacher.build import build_cache
from cliptea.teacher.cache import TeacherCache
from cliptea.training.train import KIND, train_fingerprint

from benchmarks.measure import Bench, Row, environment
from cliptea import settings
from cliptea.data.datasets import open_dataset
from cliptea.data.split_shards import Splits, build_splits
from cliptea.manifest import Output, find
from cliptea.run import Run, expand
from cliptea.storage import open_store
from cliptea.training.torchrun import Inputs, launch

ITERATIONS = 60


def measure(bench: Bench) -> Iterator[Row]:
    """The demo's student at the demo's batch size on a tiny world; images per second as training counts them."""
    cores = len(os.sched_getaffinity(0))
    variables = {
        "CLIPTEA_STORE": (bench.folder / "processes").as_uri(),
        "MLFLOW_TRACKING_URI": f"sqlite:///{bench.folder}/mlflow.db",
    }
    with environment(**variables):
        inputs = _inputs(4 if bench.quick else ITERATIONS)
        rates: dict[int, list[float]] = {1: [], 2: []}
        for number in range(bench.repeats):
            for processes in (1, 2) if number % 2 == 0 else (2, 1):
                rates[processes].append(_rate(inputs, processes, seed=2 * number + processes))
    ratio = median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    yield Row(
        f"training by processes of one thread, {cores} cores, demo_fpn, batch 48",
        f"two: {median(rates[2]):.0f} images/s",
        f"one: {median(rates[1]):.0f} images/s",
        ratio,
    )


def _inputs(iterations: int) -> Inputs:
    from cliptea.tracking.runs import open_parent

    config = settings.load(
        "smoke",
        [
            "variants=[baselines/full]",
            f"train.iterations={iterations}",
            "train.batch_size=48",
            "train.checkpoint_every=1000",
            f"train.log_every={iterations}",
        ],
    )
    variants = expand(config)
    digest = open_dataset(config.data).digest()
    run = Run(
        config=config, data_digest=digest, fingerprint="f", job_id="j", tracking_run="", variants=variants
    )  # fmt: skip
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    splits = build_splits(run)
    cache = TeacherCache.model_validate(build_cache(run, splits))
    return Inputs(run=run, variant=variants[0], splits=Splits.model_validate(splits), teacher=cache)


def _rate(inputs: Inputs, processes: int, seed: int) -> float:
    config = settings.apply_delta(inputs.variant.config, {"train": {"processes": processes}})
    variant = inputs.variant.model_copy(update={"seed": seed, "label": f"seed {seed}", "config": config})
    fp = train_fingerprint(config, seed, inputs.splits.own, inputs.teacher)
    with environment(CLIPTEA_THREADS=str(processes)):  # which are divided among them
        launch(open_store(), f"{KIND}/{fp}", inputs.model_copy(update={"variant": variant}))
    done = find(open_store(), Output(KIND, fp))
    assert done is not None
    return done.info["images_per_second"]
