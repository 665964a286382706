"""The teacher step: CLIP runs once, and training reads what it said.

For each view of each training image: the CLS token (float32) and the dense tokens (float16). From the latter, for
each clustering setting that a variant needs, the region map of the pixel learning module (uint8), without CLIP. The
text features of all classes lie beside the tokens.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor

from cliptea import device, progress
from cliptea.config import ClusteringConfig, TeacherConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader, ShardWriter
from cliptea.data.split import LABEL
from cliptea.data.views import choose_view, cut_image, cut_labels
from cliptea.manifest import Manifest, find, fingerprint, publish, put_object, read_object
from cliptea.method.plm import ignored_tokens, region_map
from cliptea.storage import FileStore, open_store
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.demo import DEMO, demo_fingerprint, demo_weights, demo_words
from cliptea.teacher.text import text_features

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = [
    "TeacherCache",
    "ViewImage",
    "build_cache",
    "clustering_key",
    "read_array",
    "read_view",
    "record_name",
]

TOKENS_VERSION = 1
REGIONS_VERSION = 1


class TeacherCache(BaseModel):
    """What the teacher step hands on: its tokens, and region maps by `clustering_key`."""

    tokens: Manifest
    regions: dict[str, Manifest]

    def text(self, store: FileStore) -> Tensor:
        """(N, D) float32 unit-norm text features in the order of `classes`."""
        return safetensors.torch.load(read_object(store, self.tokens.objects["text.safetensors"]))["text"]


class ViewImage(NamedTuple):
    """One view as both networks see it: (C, C, 3) and (C, C) uint8, (C, C) bool."""

    image: np.ndarray
    labels: np.ndarray
    valid: np.ndarray


def record_name(name: str, number: int) -> str:
    """Name of the record of view `number` of an image."""
    return f"{name}.v{number}"


def clustering_key(clustering: ClusteringConfig) -> str:
    """Name of one clustering setting."""
    return fingerprint("clustering", REGIONS_VERSION, clustering=clustering)[:8]


def read_view(reader: ShardReader, name: str, number: int, config: TeacherConfig, seed: int) -> ViewImage:
    """Cut view `number` of the image `name` out of the train shards."""
    extension = next(ext for ext in reader.extensions(name) if ext != LABEL)
    labels = decode_labels(reader.read(name, LABEL), name)
    image = decode_image(reader.read(name, extension), name)
    view = choose_view(labels, name, number, config, seed)
    return ViewImage(cut_image(image, view), cut_labels(labels, view), view.valid)


def read_array(reader: ShardReader, name: str) -> np.ndarray:
    """The array of a record of tokens or region maps."""
    return np.load(io.BytesIO(reader.read(name, "npy")), allow_pickle=False)


def build_cache(run: Run, split: dict[str, Any]) -> dict[str, Any]:
    """Make what is missing of tokens, text features and region maps; returns a dumped `TeacherCache`."""
    device.prepare()
    store, images = open_store(), Manifest.model_validate(split)
    tokens, made = _tokens(store, run, images)
    regions = {}
    for key, clustering in _clusterings(run).items():
        regions[key], new = _regions(store, run, images, tokens, clustering)
        made |= new
    if not made:
        progress.reused()
    return TeacherCache(tokens=tokens, regions=regions).model_dump()


def _tokens(store: FileStore, run: Run, split: Manifest) -> tuple[Manifest, bool]:
    config, seed = run.config.teacher, run.config.data.seed
    demo = demo_fingerprint(run.config) if config.weights == DEMO else ""
    fp = fingerprint(
        "tokens",
        TOKENS_VERSION,
        teacher=config.model_dump(exclude={"batch_size", "pretrain"}),
        demo=demo,
        split=split.fingerprint,
        seed=seed,
    )
    done = find(store, "tokens", fp)
    if done is not None:
        return done, False

    weights = str(demo_weights(store, run.config)) if config.weights == DEMO else config.weights or ""
    teacher, where = load_teacher(weights, config.model, config.crop), device.best()
    teacher.to(where)
    classes = Catalogue.model_validate(split.info["catalogue"]).classes
    strange = [name for name in classes if demo and not set(name.lower().split()) <= demo_words()]
    if strange:
        progress.warn(
            f"the demo's teacher does not know {', '.join(strange)}: results for these mean nothing"
        )

    writers = {
        kind: ShardWriter(store, f"tokens/{fp}/{kind}", run.config.data.shard_mib << 20)
        for kind in ("cls", "dense")
    }
    reader = ShardReader(store, split.objects, "train")
    total = len(reader.names) * config.views
    with progress.bar("computing CLIP tokens", total=total, unit="view") as bar:
        for names, views in _batches(reader, config, seed):
            images_BCC3, _, valid_BCC = (
                torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True)
            )
            cls_BD, dense_BDgg = teacher.tokens(
                images_BCC3.permute(0, 3, 1, 2).to(where), valid_BCC.to(where)
            )
            for index, name in enumerate(names):
                writers["cls"].add(name, {"npy": _npy(cls_BD[index])})
                writers["dense"].add(name, {"npy": _npy(dense_BDgg[index].half())})
            bar.update(len(names))
    objects = writers["cls"].close() | writers["dense"].close()
    text = safetensors.torch.save(
        {"text": text_features(teacher, classes, config.templates).cpu().contiguous()}
    )
    objects["text.safetensors"] = put_object(store, f"tokens/{fp}/text.safetensors", text)
    info = {
        "dim": teacher.dim,
        "grid": list(teacher.grid),
        "classes": classes,
        "views": total,
        "stand_in": bool(demo) and run.config.data.dataset != "demo",
        "unknown_words": strange,
    }
    return publish(store, Manifest(kind="tokens", fingerprint=fp, objects=objects, info=info)), True


def _clusterings(run: Run) -> dict[str, ClusteringConfig]:
    methods = [variant.config(run.config).method for variant in run.variants]
    return {clustering_key(method.clustering): method.clustering for method in methods if method.pseudo}


def _regions(
    store: FileStore, run: Run, split: Manifest, tokens: Manifest, clustering: ClusteringConfig
) -> tuple[Manifest, bool]:
    fp = fingerprint("regions", REGIONS_VERSION, clustering=clustering, tokens=tokens.fingerprint)
    done = find(store, "regions", fp)
    if done is not None:
        return done, False
    config, where = run.config.teacher, device.best()
    writer = ShardWriter(store, f"regions/{fp}/regions", run.config.data.shard_mib << 20)
    dense = ShardReader(store, tokens.objects, "dense")
    images = ShardReader(store, split.objects, "train")
    grid, regions = tuple(tokens.info["grid"]), 0
    with progress.bar("clustering dense tokens", total=len(dense.names), unit="view") as bar:
        for names, views in _batches(images, config, run.config.data.seed):
            _, labels_BCC, valid_BCC = (
                torch.from_numpy(np.stack(part)).to(where) for part in zip(*views, strict=True)
            )
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
    return publish(store, Manifest(kind="regions", fingerprint=fp, objects=writer.close(), info=info)), True


def _batches(
    reader: ShardReader, config: TeacherConfig, seed: int
) -> Iterator[tuple[list[str], list[ViewImage]]]:
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
