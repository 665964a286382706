"""Training by two processes against one, a thread each, with the same global batch. That they agree is a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from statistics import median

from benchmarks.measure import Bench, Row, environment
from benchmarks.world import new_run
from cliptea import settings, variant_groups
from cliptea.manifest import find
from cliptea.sealed import seal
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs, model_output
from cliptea.storage import open_store
from cliptea.training.torchrun import start

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


def _inputs(iterations: int) -> TrainInputs:
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
    run = new_run(config)
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    splits = make_splits(run)
    return TrainInputs(run=run, variant=run.variants[0], splits=splits, teacher=publish_cache(run, splits))


def _rate(inputs: TrainInputs, processes: int, seed: int) -> float:
    config = variant_groups.apply_delta(inputs.variant.config, {"train": {"processes": processes}})
    variant = inputs.variant.model_copy(update={"seed": seed, "label": f"seed {seed}", "config": config})
    inputs, store = inputs.model_copy(update={"variant": variant}), open_store()
    store.put(inputs.key, seal(inputs))
    with environment(CLIPTEA_THREADS=str(processes)):  # which are divided among them
        start(TRAIN_PROCESS, inputs.key, processes)  # one is started, too, where `train_variant` would train in here
    done = find(store, model_output(inputs))
    assert done is not None
    return done.info["images_per_second"]
