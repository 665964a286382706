"""The teacher step: CLIP runs once, and training reads what it said.

For each view of each training image: the CLS token (float32), the dense tokens (float16) unless `teacher.keep_dense`
is off, and for each clustering setting that a variant needs the region map of the pixel learning module (uint8). A new
setting's region maps are made from the stored dense tokens, without CLIP. And the text features of the classes of
every evaluation set.

This module needs no torch: it knows what there is, and `cliptea.teacher.stored_text` makes what is missing.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
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
from cliptea.storage import Store, open_store
from cliptea.teacher.demo_clip import DEMO, demo_fingerprint
from cliptea.weights_source import weights_state

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
    "make_blocks",
    "read_array",
    "read_view",
    "record_name",
    "text_sets",
]

TOKENS_VERSION = 4
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
        """Folder of its shards."""
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


class Survey(NamedTuple):
    """What there is of a run's tokens and region maps, and what has to be made."""

    tokens: Manifest | None
    dense: Manifest | None
    regions: dict[str, Manifest | None]
    missing: list[Output]
    wanted: dict[str, Output]  # region maps by `clustering_key`
    fingerprint: str  # of tokens and dense tokens

    @property
    def stored(self) -> Manifest | None:
        """Dense tokens that the missing region maps are made from; None: CLIP runs."""
        return self.dense if self.tokens is not None else None


def make_blocks(run: Run, splits: dict[str, Any], part: int = 0, parts: int = 1) -> dict[str, Any]:
    """Make this part of the blocks of views that are missing; returns what `build_cache` is given of them."""
    store, own = open_store(), Splits.model_validate(splits).own
    found = _survey(store, run, own)
    if not found.missing:
        progress.reused()
        return {"blocks": []}
    from cliptea.teacher.view_outputs import make_part

    if found.stored is not None and part == 0:
        progress.note("region maps are made from the stored dense tokens; CLIP does not run")
    if found.tokens is not None and found.dense is None and part == 0:
        new = sum(output.kind == "regions" for output in found.missing)
        progress.note(f"no dense tokens are kept: CLIP runs again for {new} new clustering setting(s)")
    made = make_part(store, run, own, found.missing, found.stored, part, parts)
    return {"blocks": [block.model_dump(mode="json") for block in made]}


def build_cache(run: Run, splits: dict[str, Any], made: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Publish tokens and region maps, and make text features, as far as they are missing.

    Args:
        run: its settings.
        splits: a dumped `Splits`.
        made: what `make_blocks` returned for each part; what they lack is made here, and all of it without any.

    Returns:
        A dumped `TeacherCache`.
    """
    store, shards = open_store(), Splits.model_validate(splits)
    found = _survey(store, run, shards.own)
    prompts = text_sets(run.config, shards)
    text_fps = {label: _text_fingerprint(run, prompt) for label, prompt in prompts.items()}
    text = {label: find(store, "text", text_fp) for label, text_fp in text_fps.items()}
    new: dict[Output, Manifest] = {}
    if not found.missing and None not in text.values():
        progress.reused()
    else:
        from cliptea.teacher.blocks import MadeBlock
        from cliptea.teacher.stored_text import make_texts
        from cliptea.teacher.view_outputs import make_outputs

        if found.missing and not made:
            made = [make_blocks(run, splits)]
        handed = [MadeBlock.model_validate(block) for part in made for block in part["blocks"]]
        new = make_outputs(store, run, shards.own, found.missing, found.stored, handed)
        texts = {text_fps[label]: prompt for label, prompt in prompts.items() if text[label] is None}
        features = make_texts(store, run, texts)
        text = {label: text[label] or features[text_fps[label]] for label in prompts}
    cache = {
        "tokens": found.tokens or new[Output("tokens", found.fingerprint)],
        "dense": found.dense or new.get(Output("dense", found.fingerprint)),
        "regions": {key: there or new[found.wanted[key]] for key, there in found.regions.items()},
        "text": text,
    }
    return TeacherCache.model_validate(cache).model_dump()


def _survey(store: Store, run: Run, split: Manifest) -> Survey:
    fp = _tokens_fingerprint(run, split)
    tokens, dense = find_sharded(store, "tokens", fp), find_sharded(store, "dense", fp)
    wanted = {
        key: Output("regions", fingerprint("regions", REGIONS_VERSION, clustering=clustering, tokens=fp), clustering)
        for key, clustering in _clusterings(run).items()
    }
    regions = {key: find_sharded(store, "regions", output.fingerprint) for key, output in wanted.items()}
    missing = [output for key, output in wanted.items() if regions[key] is None]
    if dense is None and run.config.teacher.keep_dense and (tokens is None or missing):  # CLIP runs: keep what it gives
        missing.insert(0, Output("dense", fp))
    if tokens is None:
        missing.append(Output("tokens", fp))  # published last: once they are there, the others are not looked for
    return Survey(tokens, dense, regions, missing, wanted, fp)


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
