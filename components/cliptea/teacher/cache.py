"""The teacher step: CLIP runs once, and training reads what it said.

For each view of each training image: the CLS token (float32) and the dense tokens (float16). From the latter, for
each clustering setting that a variant needs, the region map of the pixel learning module (uint8), without CLIP. And
the text features of the classes of every evaluation set.

This module needs no torch: it knows what there is, and `cliptea.teacher.tokens` makes what is missing.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import ClusteringConfig, Config, TeacherConfig
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split import LABEL, Splits
from cliptea.data.views import choose_view, cut_image, cut_labels
from cliptea.manifest import Manifest, find, fingerprint
from cliptea.storage import open_store
from cliptea.teacher.demo import DEMO, demo_fingerprint
from cliptea.teacher.weights import weights_state

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = [
    "TeacherCache",
    "TextSet",
    "ViewImage",
    "build_cache",
    "clustering_key",
    "image_extension",
    "read_array",
    "read_view",
    "record_name",
    "text_sets",
]

TOKENS_VERSION = 2
REGIONS_VERSION = 1
TEXT_VERSION = 1


class TeacherCache(BaseModel):
    """What the teacher step hands on: tokens, region maps by `clustering_key`, text features by evaluation set."""

    tokens: Manifest
    regions: dict[str, Manifest]
    text: dict[str, Manifest]


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


def build_cache(run: Run, splits: dict[str, Any]) -> dict[str, Any]:
    """Make what is missing of tokens, region maps and text features; returns a dumped `TeacherCache`."""
    store, shards = open_store(), Splits.model_validate(splits)
    tokens_fp = _tokens_fingerprint(run, shards.own)
    tokens = find(store, "tokens", tokens_fp)
    clusterings = _clusterings(run)
    regions_fps = {
        key: fingerprint("regions", REGIONS_VERSION, clustering=clustering, tokens=tokens_fp)
        for key, clustering in clusterings.items()
    }
    regions = {key: find(store, "regions", fp) for key, fp in regions_fps.items()}
    prompts = text_sets(run.config, shards)
    text_fps = {label: _text_fingerprint(run, prompt) for label, prompt in prompts.items()}
    text = {label: find(store, "text", fp) for label, fp in text_fps.items()}
    if None not in [tokens, *regions.values(), *text.values()]:
        progress.reused()
    else:
        from cliptea.teacher import tokens as heavy

        tokens = tokens or heavy.make_tokens(store, run, shards.own, tokens_fp)
        for key, clustering in clusterings.items():
            regions[key] = regions[key] or heavy.make_regions(
                store, run, shards.own, tokens, clustering, regions_fps[key]
            )
        wanted = {text_fps[label]: prompt for label, prompt in prompts.items() if text[label] is None}
        made = heavy.make_texts(store, run, wanted)
        text = {label: text[label] or made[text_fps[label]] for label in prompts}
    return TeacherCache.model_validate({"tokens": tokens, "regions": regions, "text": text}).model_dump()


class TextSet(BaseModel):
    """Class names whose text features are wanted, how they are prompted, and the file that may hold the features."""

    classes: list[str]
    templates: str
    text_features: str | None


def text_sets(config: Config, splits: Splits) -> dict[str, TextSet]:
    """What each evaluation set needs, by its name; the data set itself comes first."""
    teacher = config.teacher
    sources = {config.data.dataset: (splits.own, teacher.templates, teacher.text_features)}
    for name, further in config.evaluation.sets.items():
        sources[name] = (splits.others[name], further.templates or teacher.templates, further.text_features)
    return {
        label: TextSet(classes=split.info["catalogue"]["classes"], templates=templates, text_features=file)
        for label, (split, templates, file) in sources.items()
    }


def _tokens_fingerprint(run: Run, split: Manifest) -> str:
    config = run.config.teacher
    return fingerprint(
        "tokens",
        TOKENS_VERSION,
        teacher=config.model_dump(exclude={"batch_size", "pretrain", "templates", "text_features"}),
        weights=_weights(run),
        split=split.fingerprint,
        seed=run.config.data.seed,
    )


def _text_fingerprint(run: Run, prompt: TextSet) -> str:
    file = weights_state(prompt.text_features) if prompt.text_features else []
    return fingerprint(
        "text", TEXT_VERSION, prompt=prompt, file=file, model=run.config.teacher.model, weights=_weights(run)
    )


def _weights(run: Run) -> Any:
    weights = run.config.teacher.weights or ""
    return demo_fingerprint(run.config) if weights == DEMO else [weights, weights_state(weights)]


def _clusterings(run: Run) -> dict[str, ClusteringConfig]:
    methods = [variant.config(run.config).method for variant in run.variants]
    return {clustering_key(method.clustering): method.clustering for method in methods if method.pseudo}
