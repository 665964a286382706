"""hIoU of students that learn from stored tokens against those whose teacher runs anew on the same views, over 3 seeds.

The teacher of the second side is a pass of its own, in batches of another size, whose dense tokens are clustered in
float32 and never stored as float16. CLS tokens are stored in float32: by construction the two sides differ in rounding
only, and this row shows what rounding comes to. The world is a part of the demo's, so that it takes minutes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from statistics import mean, stdev

import numpy as np
import torch
from cliptea.evaluation.evaluate import evaluation_tasks
from cliptea.teacher.build import build_cache
from cliptea.teacher.cache import TeacherCache

from benchmarks.measure import Bench, Row, environment
from cliptea import settings
from cliptea.config import ClusteringConfig
from cliptea.data.datasets import open_dataset
from cliptea.data.records import read_array, read_view, record_name
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.data.split_shards import Splits, build_splits
from cliptea.evaluation.scoring import score_student
from cliptea.manifest import Manifest
from cliptea.method.plm import ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.run import Run, expand
from cliptea.storage import Store, open_store
from cliptea.teacher.clip import open_teacher
from cliptea.teacher.demo_clip import teacher_weights
from cliptea.training.loop import train_student

SEEDS = 3
BATCH = 5  # views of the second side's passes
KINDS = {"tokens": "cls", "regions": "regions"}  # kind -> name of the shard set
WORLD = [
    "data.world.train_scenes=200",
    "data.world.val_scenes=60",
    "teacher.views=2",
    "teacher.pretrain.scenes=1000",
    "train.iterations=120",
    "train.batch_size=24",
    "evaluation.figures=0",
]


def measure(bench: Bench) -> Iterator[Row]:
    """The distance of the two sides, in standard deviations between seeds."""
    config = settings.load(*(("smoke", []) if bench.quick else ("demo", WORLD)))
    config = settings.apply_delta(config, {"variants": ["baselines/full"]})
    with environment(CLIPTEA_STORE=(bench.folder / "online").as_uri()):
        store, digest = open_store(), open_dataset(config.data).digest()
        run = Run(
            config=config,
            data_digest=digest,
            fingerprint="bench",
            job_id="bench",
            tracking_run="",
            variants=expand(config),
        )
        splits = Splits.model_validate(build_splits(run))
        stored = TeacherCache.model_validate(build_cache(run, splits.model_dump()))
        fresh = _fresh(store, run, splits.own, stored)
        hious: dict[str, list[float]] = {"stored": [], "fresh": []}
        for seed in range(SEEDS):
            for side, cache in (("stored", stored), ("fresh", fresh)):
                fp = f"{side}{seed}"
                model = train_student(store, f"train/{fp}", config, seed, splits.own, cache, lambda curves: None)
                task = evaluation_tasks(config, splits, cache)[0]
                scored = score_student(store, f"evaluate/{fp}", config, task, cache, model)
                hious[side].append(scored.info["scores"]["hiou"])
        other = _differing(store, stored, fresh)
    spread = stdev(hious["stored"])
    yield Row(
        f"hIoU, {SEEDS} seeds: distance over the spread of seeds ({spread:.3f})",
        f"stored tokens: {mean(hious['stored']):.3f}",
        f"teacher run anew: {mean(hious['fresh']):.3f}",
        abs(mean(hious["stored"]) - mean(hious["fresh"])) / spread if spread else 0.0,
        1 if spread else None,  # students that have learnt nothing, as in a quick run, show nothing
        at_most=True,
        details={**hious, "tokens_in_other_regions": other},
    )


def _fresh(store: Store, run: Run, split: Manifest, stored: TeacherCache) -> TeacherCache:
    """Tokens and region maps of a pass without the cache's batches and float16."""
    config, images = run.config, ShardReader(store, split.objects, "train")
    teacher, views = open_teacher(teacher_weights(store, config), config.teacher), config.teacher.views
    places = [divmod(record, views) for record in range(len(images) * views)]
    writers = {name: ShardWriter(store, f"{kind}/fresh/{name}", 64 << 20) for kind, name in KINDS.items()}
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        cut = [read_view(images, image, number, config.teacher, config.data.seed) for image, number in batch]
        images_BCC3, labels_BCC, valid_BCC = (torch.from_numpy(np.stack(part)) for part in zip(*cut, strict=True))
        valid_BCC = valid_BCC.to(teacher.mean.device)
        cls_BD, dense_BDgg = teacher.tokens(images_BCC3.permute(0, 3, 1, 2).to(valid_BCC.device), valid_BCC)
        ignored_Bgg = ignored_tokens(labels_BCC.to(valid_BCC.device), valid_BCC, teacher.grid)
        regions_Bgg = _regions(dense_BDgg, ignored_Bgg, config.method.clustering)
        for row, (image, number) in enumerate(batch):
            for name, tensor in (("cls", cls_BD), ("regions", regions_Bgg)):
                buffer = io.BytesIO()
                np.save(buffer, tensor[row].cpu().numpy(), allow_pickle=False)
                writers[name].add(record_name(images.name(image), number), {"npy": buffer.getvalue()})
    made = {
        kind: Manifest(kind=kind, fingerprint="fresh", objects=put_top_index(store, f"{kind}/fresh/{name}", shards))
        for kind, name in KINDS.items()
        for shards in [writers[name].close()]
    }
    tokens = made["tokens"].model_copy(update={"info": stored.tokens.info})
    return stored.model_copy(update={"tokens": tokens, "regions": dict.fromkeys(stored.regions, made["regions"])})


def _regions(dense_BDgg: torch.Tensor, ignored_Bgg: torch.Tensor, settings: ClusteringConfig) -> torch.Tensor:
    return region_maps(
        dense_BDgg,
        ignored_Bgg,
        settings.windows,
        settings.seed_mode,
        settings.rounds,
        settings.fusion_threshold,
        settings.max_regions,
    )


def _differing(store: Store, stored: TeacherCache, fresh: TeacherCache) -> float:
    """Share of tokens whose region is another."""
    manifests = [next(iter(cache.regions.values())) for cache in (stored, fresh)]
    one, two = (ShardReader(store, manifest.objects, "regions") for manifest in manifests)
    return mean(float((read_array(one, k) != read_array(two, k)).mean()) for k in range(len(one)))
