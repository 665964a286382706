"""hIoU of students that learn from stored tokens against those whose teacher runs anew on the same views, over 3 seeds.

The teacher of the second side is a pass of its own, in batches of another size, whose dense tokens are clustered in
float32 and never stored as float16. CLS tokens are stored in float32: by construction the two sides differ in rounding
only, and this row shows what rounding comes to. The world is a part of the demo's, so that it takes minutes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from statistics import mean, stdev

import numpy as np
import safetensors.torch
import torch

from benchmarks.measure import Bench, Row, environment
from benchmarks.world import new_run
from cliptea import device, settings, variant_groups
from cliptea.config import ClusteringConfig, Config
from cliptea.data.records import read_array, read_pair, read_view, record_name
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.evaluation.scoring import score_student
from cliptea.manifest import Manifest, Output, read_object
from cliptea.method.plm import ignored_tokens
from cliptea.method.regions import region_maps
from cliptea.segment.segmenter import load_student
from cliptea.steps.evaluation_tasks import EvaluationTask, evaluation_tasks
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import TeacherCache, publish_cache
from cliptea.steps.train import training_data
from cliptea.storage import Store, open_store
from cliptea.teacher.clip import open_teacher
from cliptea.teacher.demo_clip import teacher_weights
from cliptea.teacher.outputs import SHARDS
from cliptea.teacher.text import load_text
from cliptea.training.loop import train_student

SEEDS = 3
BATCH = 5  # views of the second side's passes
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
    config = variant_groups.apply_delta(config, {"variants": ["baselines/full"]})
    with environment(CLIPTEA_STORE=(bench.folder / "online").as_uri()):
        store, run = open_store(), new_run(config)
        splits = make_splits(run)
        stored = publish_cache(run, splits)
        fresh = _fresh(store, config, splits.own, stored)
        hious: dict[str, list[float]] = {"stored": [], "fresh": []}
        for seed in range(SEEDS):
            for side, cache in (("stored", stored), ("fresh", fresh)):
                learnt = training_data(store, config, splits, cache)
                output = Output("train", f"{side}{seed}")
                model = train_student(store, output, config, seed, *learnt, lambda curves: None)
                hious[side].append(_hiou(store, config, evaluation_tasks(config, splits, cache)[0], model))
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


def _hiou(store: Store, config: Config, task: EvaluationTask, model: Manifest) -> float:
    weights = safetensors.torch.load(read_object(store, model.objects["model.safetensors"]))
    student = load_student(model.info["backbone"], model.info["dim"], weights).to(device.best())
    reader, text_ND = ShardReader(store, task.split.objects, "val"), load_text(store, task.text).to(device.best())
    evaluation = config.evaluation.model_copy(update={"gamma": task.gamma})
    scored, _ = score_student(
        student, reader.names, partial(read_pair, reader), task.catalogue, text_ND, evaluation, task.label
    )
    assert scored.scores.hiou is not None  # the demo's val images show every class
    return scored.scores.hiou


def _fresh(store: Store, config: Config, own: Manifest, stored: TeacherCache) -> TeacherCache:
    """Tokens and region maps of a pass without the cache's batches and float16."""
    images = ShardReader(store, own.objects, "train")
    teacher, views = open_teacher(teacher_weights(store, config), config.teacher), config.teacher.views
    places = [divmod(record, views) for record in range(len(images) * views)]
    folders = {kind: f"{kind}/fresh/{SHARDS[kind]}" for kind in ("tokens", "regions")}
    writers = {kind: ShardWriter(store, folder, 64 << 20) for kind, folder in folders.items()}
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        cut = [read_view(images, image, number, config.teacher, config.data.seed) for image, number in batch]
        images_BCC3, labels_BCC, valid_BCC = (torch.from_numpy(np.stack(part)) for part in zip(*cut, strict=True))
        valid_BCC = valid_BCC.to(teacher.mean.device)
        cls_BD, dense_BDgg = teacher.tokens(images_BCC3.permute(0, 3, 1, 2).to(valid_BCC.device), valid_BCC)
        ignored_Bgg = ignored_tokens(labels_BCC.to(valid_BCC.device), valid_BCC, teacher.grid)
        regions_Bgg = _regions(dense_BDgg, ignored_Bgg, config.method.clustering)
        for row, (image, number) in enumerate(batch):
            for kind, tensor in (("tokens", cls_BD), ("regions", regions_Bgg)):
                buffer = io.BytesIO()
                np.save(buffer, tensor[row].cpu().numpy(), allow_pickle=False)
                writers[kind].add(record_name(images.name(image), number), {"npy": buffer.getvalue()})
    made = {
        kind: Manifest(kind=kind, fingerprint="fresh", objects=put_top_index(store, folder, writers[kind].close()))
        for kind, folder in folders.items()
    }
    tokens = made["tokens"].model_copy(update={"info": stored.tokens.info})
    return stored.model_copy(update={"tokens": tokens, "regions": dict.fromkeys(stored.regions, made["regions"])})


def _regions(dense_BDgg: torch.Tensor, ignored_Bgg: torch.Tensor, settings: ClusteringConfig) -> torch.Tensor:
    return region_maps(dense_BDgg, ignored_Bgg, settings)


def _differing(store: Store, stored: TeacherCache, fresh: TeacherCache) -> float:
    """Share of tokens whose region is another."""
    manifests = [next(iter(cache.regions.values())) for cache in (stored, fresh)]
    one, two = (ShardReader(store, manifest.objects, "regions") for manifest in manifests)
    return mean(float((read_array(one, k) != read_array(two, k)).mean()) for k in range(len(one)))
