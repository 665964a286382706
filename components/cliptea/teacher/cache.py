"""What the teacher step stores of a run, and what of it is there.

For each view of each training image: the CLS token (float32), the dense tokens (float16) unless `teacher.keep_dense`
is off, and for each clustering setting that a variant needs the region map of the pixel learning module (uint8). A new
setting's region maps are made from the stored dense tokens, without CLIP. And the text features of the classes of
every evaluation set.

This module needs no torch: it knows what there is, and `cliptea.teacher.build` makes what is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from cliptea.config import ClusteringConfig, Config
from cliptea.data.shard_sets import find_sharded
from cliptea.data.split import Splits
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.storage import Store
from cliptea.teacher.demo_clip import demo_fingerprint
from cliptea.weights_source import WeightsSource

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = [
    "SHARDS",
    "Survey",
    "TeacherCache",
    "TextSet",
    "ViewOutput",
    "clustering_key",
    "survey",
    "text_output",
    "text_sets",
]

# settings of the teacher that its tokens do not depend on, or that stand for what is told otherwise
NOT_IN_TOKENS = {"batch_size", "keep_dense", "num_workers", "pretrain", "templates", "text_features"}
SHARDS = {"tokens": "cls", "dense": "dense", "regions": "regions"}  # kind -> name of the shard set


class TeacherCache(BaseModel):
    """What the teacher step hands on: CLS tokens, region maps by `clustering_key`, text features by evaluation set."""

    tokens: Manifest
    dense: Manifest | None = None  # dense tokens, where they are kept
    regions: dict[str, Manifest]
    text: dict[str, Manifest]


class ViewOutput(NamedTuple):
    """Something that is made of views: their "tokens", "dense" tokens, or "regions" under a clustering setting."""

    output: Output
    clustering: ClusteringConfig | None = None

    @property
    def folder(self) -> str:
        """Folder of its shards."""
        return f"{self.output.prefix}/{SHARDS[self.output.kind]}"


class Survey(NamedTuple):
    """What a run needs of tokens and region maps, what there is of it, and what has to be made."""

    tokens: Output
    dense: Output
    regions: dict[str, Output]  # by `clustering_key`
    found: dict[Output, Manifest]
    missing: list[ViewOutput]

    @property
    def stored(self) -> Manifest | None:
        """Dense tokens that the missing region maps are made from; None: CLIP runs."""
        return self.found.get(self.dense) if self.tokens in self.found else None


class TextSet(BaseModel):
    """Class names whose text features are wanted, how they are prompted, and the file that may hold the features."""

    classes: list[str]
    templates: str
    text_features: str | None


def clustering_key(clustering: ClusteringConfig) -> str:
    """Name of one clustering setting."""
    return fingerprint("clustering", clustering=clustering)[:8]


def survey(store: Store, run: Run, split: Manifest) -> Survey:
    """Look for the tokens and region maps of all views of the train shards."""
    fp = _tokens_fingerprint(run, split)
    tokens, dense = Output("tokens", fp), Output("dense", fp)
    methods = [variant.config.method for variant in run.variants]
    regions = {
        clustering_key(method.clustering): ViewOutput(
            Output("regions", fingerprint("regions", clustering=method.clustering, tokens=fp)), method.clustering
        )
        for method in methods
        if method.pseudo
    }
    looked_for = [tokens, dense, *(wanted.output for wanted in regions.values())]
    found = {output: there for output in looked_for if (there := find_sharded(store, output))}
    missing = [wanted for wanted in regions.values() if wanted.output not in found]
    clip_runs = dense not in found and (tokens not in found or missing)
    if clip_runs and run.config.teacher.keep_dense:
        missing.insert(0, ViewOutput(dense))
    if tokens not in found:
        missing.append(ViewOutput(tokens))  # published last: once they are there, the others are not looked for
    return Survey(tokens, dense, {key: wanted.output for key, wanted in regions.items()}, found, missing)


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


def text_output(config: Config, prompt: TextSet) -> Output:
    """The output that holds the text features of a class list."""
    file = WeightsSource.of(prompt.text_features).state()
    fp = fingerprint("text", prompt=prompt, file=file, model=config.teacher.model, weights=_weights(config))
    return Output("text", fp)


def _tokens_fingerprint(run: Run, split: Manifest) -> str:
    config = run.config
    return fingerprint(
        "tokens",
        teacher=config.teacher.model_dump(exclude=NOT_IN_TOKENS),
        weights=_weights(config),
        split=split.fingerprint,
        seed=config.data.seed,
    )


def _weights(config: Config) -> Any:
    source = config.teacher.source
    return demo_fingerprint(config) if source.kind == "demo" else [source.text, source.state()]
