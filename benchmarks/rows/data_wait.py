"""How long training waits for data, against the time of its steps, with the default number of loading processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from statistics import median

from benchmarks.measure import Bench, Row, environment
from benchmarks.world import device, prepare
from cliptea.messages import three_digits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import training_data
from cliptea.storage import open_store
from cliptea.training.batches import batches
from cliptea.training.history import History
from cliptea.training.trainer import Trainer
from cliptea.variant_groups import apply_delta

PART = 5  # iterations of a measurement


def measure(bench: Bench) -> Iterator[Row]:
    """As training itself counts it, without the first batch, for which the loading processes start."""
    gpu = device() == "cuda"
    batch = 2 if bench.quick else 16 if gpu else 1
    prepared = prepare(bench, 64 if gpu else 6, f"train.batch_size={batch}", f"teacher.batch_size={batch}")
    part = 20 if gpu else 1 if bench.quick else PART
    delta = {"student": {"backbone": "segformer_b0"}, "train": {"iterations": 2 + part * bench.repeats}}
    config = apply_delta(prepared.run.config, delta)
    with environment(CLIPTEA_STORE=prepared.store):
        cache = publish_cache(prepared.run, prepared.splits)
        data, text = training_data(open_store(), config, prepared.splits, cache)
        trainer = Trainer(config, text, 0)
        shown = batches(config, data, 0)
        for first in islice(shown, 2):
            trainer.step(first)
        waits, steps = [], []
        for _ in range(bench.repeats):
            history = History()
            for _ in history.measured(islice(shown, part), trainer.step):
                pass
            waits.append(history.waiting / part)
            steps.append(history.working / part)
    yield Row(
        f"data wait, segformer_b0, batch {batch}, {config.train.workers} loading processes",
        f"waiting: {three_digits(1000 * median(waits))} ms",
        f"step: {three_digits(1000 * median(steps))} ms",
        median(wait / step for wait, step in zip(waits, steps, strict=True)),
        0.02,
        at_most=True,
    )
