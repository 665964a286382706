"""The teacher step: CLIP runs once, and training reads what it said.

For each view of each training image: the CLS token (float32) and the dense tokens (float16). From the latter, for
each clustering setting that a variant needs, the region map of the pixel learning module (uint8), without CLIP. The
text features of all classes lie beside the tokens.

This module needs no torch: it knows what there is, and `cliptea.teacher.tokens` makes what is missing.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import ClusteringConfig, TeacherConfig
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split import LABEL
from cliptea.data.views import choose_view, cut_image, cut_labels
from cliptea.manifest import Manifest, find, fingerprint
from cliptea.storage import open_store
from cliptea.teacher.demo import DEMO, demo_fingerprint

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = [
    "TeacherCache",
    "ViewImage",
    "build_cache",
    "clustering_key",
    "image_extension",
    "read_array",
    "read_view",
    "record_name",
]

TOKENS_VERSION = 1
REGIONS_VERSION = 1


class TeacherCache(BaseModel):
    """What the teacher step hands on: tokens with text features, and region maps by `clustering_key`."""

    tokens: Manifest
    regions: dict[str, Manifest]


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


def image_extension(reader: ShardReader, name: str) -> str:
    """Extension of the image in a record of a split."""
    return next(extension for extension in reader.extensions(name) if extension != LABEL)


def read_view(reader: ShardReader, name: str, number: int, config: TeacherConfig, seed: int) -> ViewImage:
    """Cut view `number` of the image `name` out of the train shards."""
    extension = image_extension(reader, name)
    labels = decode_labels(reader.read(name, LABEL), name)
    image = decode_image(reader.read(name, extension), name)
    view = choose_view(labels, name, number, config, seed)
    return ViewImage(cut_image(image, view), cut_labels(labels, view), view.valid)


def read_array(reader: ShardReader, name: str) -> np.ndarray:
    """The array of a record of tokens or region maps."""
    return np.load(io.BytesIO(reader.read(name, "npy")), allow_pickle=False)


def build_cache(run: Run, split: dict[str, Any]) -> dict[str, Any]:
    """Make what is missing of tokens, text features and region maps; returns a dumped `TeacherCache`."""
    store, images = open_store(), Manifest.model_validate(split)
    tokens_fp = _tokens_fingerprint(run, images)
    tokens = find(store, "tokens", tokens_fp)
    clusterings = _clusterings(run)
    fps = {
        key: fingerprint("regions", REGIONS_VERSION, clustering=clustering, tokens=tokens_fp)
        for key, clustering in clusterings.items()
    }
    found = {key: find(store, "regions", fp) for key, fp in fps.items()}
    if tokens is not None and None not in found.values():
        progress.reused()
    if tokens is None:
        from cliptea.teacher.tokens import make_tokens

        tokens = make_tokens(store, run, images, tokens_fp)
    regions = {}
    for key, manifest in found.items():
        if manifest is None:
            from cliptea.teacher.tokens import make_regions

            manifest = make_regions(store, run, images, tokens, clusterings[key], fps[key])  # noqa: PLW2901
        regions[key] = manifest
    return TeacherCache(tokens=tokens, regions=regions).model_dump()


def _tokens_fingerprint(run: Run, split: Manifest) -> str:
    config = run.config.teacher
    return fingerprint(
        "tokens",
        TOKENS_VERSION,
        teacher=config.model_dump(exclude={"batch_size", "pretrain"}),
        weights=demo_fingerprint(run.config) if config.weights == DEMO else _state(config.weights or ""),
        split=split.fingerprint,
        seed=run.config.data.seed,
    )


def _state(weights: str) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files that `weights` names: other files there, other tokens."""
    path = Path(weights)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _clusterings(run: Run) -> dict[str, ClusteringConfig]:
    methods = [variant.config(run.config).method for variant in run.variants]
    return {clustering_key(method.clustering): method.clustering for method in methods if method.pseudo}
