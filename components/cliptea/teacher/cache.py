"""The teacher step: CLIP runs once, and training reads what it said.

For each view of each training image: the CLS token (float32), the dense tokens (float16) unless `teacher.keep_dense`
is off, and for each clustering setting that a variant needs the region map of the pixel learning module (uint8). A new
setting's region maps are made from the stored dense tokens, without CLIP. And the text features of the classes of
every evaluation set.

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
from cliptea.data.shard_sets import find_sharded
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
    "Output",
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

TOKENS_VERSION = 3
REGIONS_VERSION = 2
TEXT_VERSION = 1
# settings of the teacher that its tokens do not depend on, or that stand for what is told otherwise
NOT_IN_TOKENS = {"batch_size", "keep_dense", "num_workers", "pretrain", "templates", "text_features"}


SHARDS = {"tokens": "cls", "dense": "dense", "regions": "regions"}  # kind -> name of the shard set


class TeacherCache(BaseModel):
    """What the teacher step hands on: CLS tokens, region maps by `clustering_key`, text features by evaluation set."""

    tokens: Manifest
    dense: Manifest | None = None  # dense tokens, where they are kept
    regions: dict[str, Manifest]
    text: dict[str, Manifest]


class Output(NamedTuple):
    """Something that is made of views: their "tokens", "dense" tokens, or "regions" under a clustering setting."""

    kind: str
    fingerprint: str
    clustering: ClusteringConfig | None = None

    @property
    def prefix(self) -> str:
        """First part of the keys of its shards."""
        return f"{self.kind}/{self.fingerprint}/{SHARDS[self.kind]}"


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


def read_view(reader: ShardReader, image_record: str | int, number: int, config: TeacherConfig, seed: int) -> ViewImage:
    """Cut view `number` of an image, given by its name or its number, out of the train shards."""
    name = image_record if isinstance(image_record, str) else reader.name(image_record)
    members = reader.members(image_record)
    labels = decode_labels(members.pop(LABEL), name)
    image = decode_image(next(iter(members.values())), name)
    view = choose_view(labels, name, number, config, seed)
    return ViewImage(cut_image(image, view), cut_labels(labels, view), view.valid)


def read_array(reader: ShardReader, record: str | int) -> np.ndarray:
    """The array of a record of tokens or region maps. View v of image i is record i * `teacher.views` + v."""
    return np.load(io.BytesIO(reader.read(record, "npy")), allow_pickle=False)


def build_cache(run: Run, splits: dict[str, Any]) -> dict[str, Any]:
    """Make what is missing of tokens, region maps and text features; returns a dumped `TeacherCache`."""
    store, shards = open_store(), Splits.model_validate(splits)
    fp = _tokens_fingerprint(run, shards.own)
    tokens, dense = find_sharded(store, "tokens", fp), find_sharded(store, "dense", fp)
    wanted = {
        key: Output("regions", fingerprint("regions", REGIONS_VERSION, clustering=clustering, tokens=fp), clustering)
        for key, clustering in _clusterings(run).items()
    }
    regions = {key: find_sharded(store, "regions", output.fingerprint) for key, output in wanted.items()}
    missing = [output for key, output in wanted.items() if regions[key] is None]
    prompts = text_sets(run.config, shards)
    text_fps = {label: _text_fingerprint(run, prompt) for label, prompt in prompts.items()}
    text = {label: find(store, "text", text_fp) for label, text_fp in text_fps.items()}
    if tokens is not None and not missing and None not in text.values():
        progress.reused()
    else:
        from cliptea.teacher import tokens as heavy
        from cliptea.teacher.views import make_outputs

        if tokens is None or (dense is None and missing):
            if tokens is not None:
                progress.note(f"no dense tokens are kept: CLIP runs again for {len(missing)} new clustering setting(s)")
            by_clip = {"tokens": tokens is None, "dense": dense is None and run.config.teacher.keep_dense}
            missing += [Output(kind, fp) for kind, needed in by_clip.items() if needed]
            made = make_outputs(store, run, shards.own, missing, None)
        else:
            made = make_outputs(store, run, shards.own, missing, dense)
        tokens, dense = tokens or made[Output("tokens", fp)], dense or made.get(Output("dense", fp))
        regions = {key: found or made[wanted[key]] for key, found in regions.items()}
        texts = {text_fps[label]: prompt for label, prompt in prompts.items() if text[label] is None}
        new = heavy.make_texts(store, run, texts)
        text = {label: text[label] or new[text_fps[label]] for label in prompts}
    found = {"tokens": tokens, "dense": dense, "regions": regions, "text": text}
    return TeacherCache.model_validate(found).model_dump()


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
        teacher=config.model_dump(exclude=NOT_IN_TOKENS),
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
