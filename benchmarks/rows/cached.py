"""A training step that reads the teacher's tokens against the same step with CLIP run in it, for each backbone.

With T seconds of CLIP (tokens and region maps) and S of the step on a batch in memory, stored tokens can make a step at
most 1 + T/S times as fast. What is reported is the share of this bound that loading from shards leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Bench, Row, environment, interleaved
from benchmarks.world import Prepared, device, prepare
from cliptea.config import Config
from cliptea.data.records import read_view
from cliptea.data.shards import ShardReader
from cliptea.method.plm import ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.models.backbones import STUDENTS
from cliptea.steps.teacher import TeacherCache, publish_cache
from cliptea.steps.train import training_data
from cliptea.storage import open_store
from cliptea.teacher.clip import Teacher, open_teacher
from cliptea.training.batches import batches
from cliptea.training.trainer import Trainer
from cliptea.variant_groups import apply_delta

IMAGES = 6

NOTE = (
    "Share of the bound: values above 1 are noise, because the parts are timed separately and each ratio comes from "
    "steps of one to three seconds."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Every backbone with a GPU or when it may take long; else SegFormer-B0, an image at a time."""
    gpu = device() == "cuda"
    batch = 16 if gpu and not bench.quick else 2 if bench.quick or bench.long else 1
    prepared = prepare(bench, 64 if gpu else IMAGES, f"train.batch_size={batch}", f"teacher.batch_size={batch}")
    everything = [name for name in STUDENTS if name != "demo_fpn"]
    with environment(CLIPTEA_STORE=prepared.store):
        cache = publish_cache(prepared.run, prepared.splits)
        teacher = open_teacher(str(bench.folder / "clip"), prepared.run.config.teacher)
        for backbone in ["demo_fpn"] if bench.quick else everything if gpu or bench.long else ["segformer_b0"]:
            yield _measure(bench, prepared, cache, teacher, backbone, batch)


def _measure(bench: Bench, prepared: Prepared, cache: TeacherCache, teacher: Teacher, backbone: str, batch: int) -> Row:
    rounds = max(bench.repeats, 20 if device() == "cuda" else 0)
    delta = {"student": {"backbone": backbone}, "train": {"iterations": 2 * rounds + 4}}
    config = apply_delta(prepared.run.config, delta)
    where = torch.device(device())
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    data, text = training_data(open_store(), config, prepared.splits, cache)
    trainer = Trainer(config, text, 0)
    shown = batches(config, data, 0)
    held = next(shown).to(where)
    views = _views(config, data.images, batch).to(where)
    settings = config.method.clustering

    def teach() -> tuple[Tensor, Tensor]:
        with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
            cls_BD, dense_BDgg = teacher.tokens(views, held.valid_BCC)
        ignored_Bgg = ignored_tokens(held.labels_BCC, held.valid_BCC, teacher.grid)
        regions_Bgg = region_maps(dense_BDgg.half(), ignored_Bgg, settings)
        if where.type == "cuda":
            torch.cuda.synchronize()
        return cls_BD, regions_Bgg

    def in_the_loop() -> None:
        read, (cls_BD, regions_Bgg) = next(shown), teach()
        trainer.step(read._replace(cls_BD=cls_BD, regions_Bgg=regions_Bgg))

    def cached() -> None:
        trainer.step(next(shown))

    cached()
    memory = torch.cuda.max_memory_allocated() / 2**30 if where.type == "cuda" else None
    in_the_loop()
    with_tokens, with_clip, clip, step = interleaved(
        rounds, cached, in_the_loop, teach, lambda: trainer.step(held)
    )  # fmt: skip
    bounds = [1 + t / s for t, s in zip(clip, step, strict=True)]
    ratios = [b / a for a, b in zip(with_tokens, with_clip, strict=True)]
    share = median(ratio / bound for ratio, bound in zip(ratios, bounds, strict=True))
    return Row(
        f"training step, {backbone}, batch {batch}: share of the bound {median(bounds):.2f} that is reached",
        f"stored tokens: {median(with_tokens):.3g} s",
        f"CLIP in the loop: {median(with_clip):.3g} s, {median(ratios):.2f} times",
        share,
        0.9,
        rates={backbone: batch / median(with_tokens)},
        details={
            "clip_seconds": median(clip),
            "step_seconds": median(step),
            "times_as_fast": median(ratios),
            "shares": [ratio / bound for ratio, bound in zip(ratios, bounds, strict=True)],
            "memory_gib": memory,
        },
        note=NOTE,
    )


def _views(config: Config, images: ShardReader, number: int) -> Tensor:
    """(number, 3, C, C) uint8."""
    cut = [read_view(images, place, 0, config.teacher, config.data.seed) for place in range(number)]
    return torch.stack([torch.from_numpy(view.image) for view in cut]).permute(0, 3, 1, 2)
