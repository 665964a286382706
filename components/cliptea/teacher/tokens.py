"""What the teacher step computes: CLIP's tokens of every view, text features, and region maps."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cliptea import device, progress
from cliptea.config import ClusteringConfig, TeacherConfig
from cliptea.data.shards import ShardReader, ShardWriter
from cliptea.manifest import Manifest, publish, put_object, read_object
from cliptea.method.plm import ignored_tokens, region_map
from cliptea.storage import Store
from cliptea.teacher.cache import TextSet, ViewImage, read_array, read_view, record_name
from cliptea.teacher.clip import Teacher, load_teacher
from cliptea.teacher.demo import DEMO, demo_weights, demo_words
from cliptea.teacher.text import read_text_features, text_features

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["load_text", "make_regions", "make_texts", "make_tokens"]

TEXT = "text.safetensors"


def load_text(store: Store, text: Manifest) -> Tensor:
    """(N, D) float32 unit-norm text features in the order of the evaluation set's classes."""
    return safetensors.torch.load(read_object(store, text.objects[TEXT]))["text"]


def make_texts(store: Store, run: Run, prompts: dict[str, TextSet]) -> dict[str, Manifest]:
    """Text features of class lists by fingerprint: read from a file, or from the teacher's text tower."""
    if not prompts:
        return {}
    teacher = _teacher(store, run)
    return {
        fp: _make_text(store, teacher, prompt, fp, run.config.teacher.weights == DEMO) for fp, prompt in prompts.items()
    }


def _make_text(store: Store, teacher: Teacher, prompt: TextSet, fp: str, demo: bool) -> Manifest:
    strange = [name for name in prompt.classes if demo and not set(name.lower().split()) <= demo_words()]
    if strange:
        progress.warn(f"the demo's teacher does not know {', '.join(strange)}: results for these mean nothing")
    if prompt.text_features is None:
        text_ND = text_features(teacher, prompt.classes, prompt.templates)
    else:
        text_ND = read_text_features(prompt.text_features, teacher, prompt.classes)
    data = safetensors.torch.save({"text": text_ND.cpu().contiguous()})
    objects = {TEXT: put_object(store, f"text/{fp}/{TEXT}", data)}
    info = {"classes": prompt.classes, "unknown_words": strange}
    return publish(store, Manifest(kind="text", fingerprint=fp, objects=objects, info=info))


def _teacher(store: Store, run: Run) -> Teacher:
    device.prepare()
    config = run.config.teacher
    weights = str(demo_weights(store, run.config)) if config.weights == DEMO else config.weights or ""
    return load_teacher(weights, config.model, config.crop).to(device.best())


def make_tokens(store: Store, run: Run, split: Manifest, fp: str) -> Manifest:
    """CLS and dense tokens of every view of the train shards."""
    config, seed = run.config.teacher, run.config.data.seed
    teacher, where = _teacher(store, run), device.best()
    writers = {
        kind: ShardWriter(store, f"tokens/{fp}/{kind}", run.config.data.shard_mib << 20) for kind in ("cls", "dense")
    }
    reader = ShardReader(store, split.objects, "train")
    total = len(reader.names) * config.views
    with progress.bar("computing CLIP tokens", total=total, unit="view") as bar:
        for names, views in _batches(reader, config, seed):
            images_BCC3, _, valid_BCC = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
            cls_BD, dense_BDgg = teacher.tokens(images_BCC3.permute(0, 3, 1, 2).to(where), valid_BCC.to(where))
            for index, name in enumerate(names):
                writers["cls"].add(name, {"npy": _npy(cls_BD[index])})
                writers["dense"].add(name, {"npy": _npy(dense_BDgg[index].half())})
            bar.update(len(names))
    objects = writers["cls"].close() | writers["dense"].close()
    info = {
        "dim": teacher.dim,
        "grid": list(teacher.grid),
        "views": total,
        "stand_in": config.weights == DEMO and run.config.data.dataset != "demo",
    }
    return publish(store, Manifest(kind="tokens", fingerprint=fp, objects=objects, info=info))


def make_regions(
    store: Store, run: Run, split: Manifest, tokens: Manifest, clustering: ClusteringConfig, fp: str
) -> Manifest:
    """Region maps of every view under one clustering setting, from the stored dense tokens."""
    device.prepare()
    config, where = run.config.teacher, device.best()
    writer = ShardWriter(store, f"regions/{fp}/regions", run.config.data.shard_mib << 20)
    dense = ShardReader(store, tokens.objects, "dense")
    images = ShardReader(store, split.objects, "train")
    grid, regions = tuple(tokens.info["grid"]), 0
    with progress.bar("clustering dense tokens", total=len(dense.names), unit="view") as bar:
        for names, views in _batches(images, config, run.config.data.seed):
            _, labels_BCC, valid_BCC = (torch.from_numpy(np.stack(part)).to(where) for part in zip(*views, strict=True))
            ignored_Bgg = ignored_tokens(labels_BCC, valid_BCC, grid)
            for index, name in enumerate(names):
                regions_gg = region_map(
                    torch.from_numpy(read_array(dense, name)).to(where).float(),
                    ignored_Bgg[index],
                    clustering.windows,
                    clustering.seed_mode,
                    clustering.rounds,
                    clustering.fusion_threshold,
                    clustering.max_regions,
                )
                regions += len(regions_gg[regions_gg != 255].unique())
                writer.add(name, {"npy": _npy(regions_gg)})
            bar.update(len(names))
    info = {"regions_per_view": regions / max(1, len(dense.names)), "clustering": clustering.model_dump()}
    return publish(store, Manifest(kind="regions", fingerprint=fp, objects=writer.close(), info=info))


def _batches(reader: ShardReader, config: TeacherConfig, seed: int) -> Iterator[tuple[list[str], list[ViewImage]]]:
    names: list[str] = []
    views: list[ViewImage] = []
    for name in reader.names:
        for number in range(config.views):
            names.append(record_name(name, number))
            views.append(read_view(reader, name, number, config, seed))
            if len(names) == config.batch_size:
                yield names, views
                names, views = [], []
    if names:
        yield names, views


def _npy(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tensor.cpu().numpy(), allow_pickle=False)
    return buffer.getvalue()
