"""The outputs of the teacher. This module does not import torch.

For each view of each training image, the teacher computes the CLS token (float32), the tokens to cluster (float16)
unless `teacher.keep_dense` is off, and for each clustering setting that a variant needs the region map of the pixel
learning module (uint8), with an embedding of each region if the setting asks for it. It also computes text features for
the classes of every evaluation set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from cliptea.config import ClusteringConfig, Config, Templates
from cliptea.data.shard_sets import ShardEntry
from cliptea.manifest import Output, fingerprint
from cliptea.teacher.demo_clip import demo_fingerprint
from cliptea.weights_source import WeightsSource

__all__ = [
    "REGION_BLOCKS", "SHARDS", "ClipTime", "MadeBlock", "TextSet", "ViewOutput", "clustered_kind", "clustering_key",
    "text_output", "tokens_fingerprint",
]  # fmt: skip

REGION_BLOCKS = 3  # last blocks of CLIP in which tokens of regions attend to their region
# settings of the teacher that do not affect its tokens, or that are part of the fingerprint in another form
NOT_IN_TOKENS = {"batch_size", "compile", "keep_dense", "num_workers", "pretrain", "templates", "text_features"}
# kind -> name of the shard set
SHARDS = {"tokens": "cls", "dense": "dense", "value": "value", "key": "key", "regions": "regions"}


class ViewOutput(NamedTuple):
    """An output for all views: "tokens", tokens to cluster of some kind, or "regions" with a clustering setting."""

    output: Output
    clustering: ClusteringConfig | None = None

    @property
    def form(self) -> str:
        """The form of the embeddings of regions, or "none"."""
        return "none" if self.clustering is None else self.clustering.region_tokens

    @property
    def folder(self) -> str:
        """The folder of its shards."""
        return f"{self.output.prefix}/{SHARDS[self.output.kind]}"


class ClipTime(BaseModel):
    """How long CLIP took to encode views, added up over all workers. Without views, nothing was measured.

    Loading CLIP, reading, clustering, writing and waiting do not count, nor do the descriptions of regions.
    """

    views: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)  # of GPUs, or of CPU cores
    devices: list[str] = []  # names of GPUs, or "CPU core"

    @classmethod
    def joined(cls, times: Iterable[ClipTime]) -> ClipTime:
        """The sum of several measurements. Those of different devices have no sum, so then nothing was measured."""
        times = list(times)
        devices = {device for time in times for device in time.devices}
        if len(devices) > 1:
            return cls()
        views, seconds = sum(time.views for time in times), sum(time.seconds for time in times)
        return cls(views=views, seconds=seconds, devices=sorted(devices))

    def seconds_for(self, views: int) -> float:
        """The time for that many views at the same speed, if any was measured."""
        return self.seconds * views / self.views


class MadeBlock(BaseModel):
    """The shards of a block by the output's folder and, for region maps, the number of regions.

    `shapes` holds (D, g, g) by kind of tokens that were computed, where the grid of CLS tokens is that of the others.
    """

    number: int
    shards: dict[str, list[ShardEntry]] = {}
    regions: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    clip: ClipTime = ClipTime()  # without views if the block was found in the store


class TextSet(BaseModel):
    """Class names for text features, with prompt templates and an optional file with the features.

    Where students are trained with the classes, `unseen` names those whose features training must not get.
    """

    classes: list[str]
    templates: Templates
    text_features: str | None
    synonyms: dict[str, list[str]] = {}  # class -> its names, if it has others than its own
    unseen: list[str] = []

    @property
    def names(self) -> list[str]:
        """The names of all classes."""
        return [name for one in self.classes for name in self.synonyms.get(one, [one])]


def clustering_key(clustering: ClusteringConfig) -> str:
    """Name of one clustering setting."""
    return fingerprint("clustering", clustering=clustering)[:8]


def clustered_kind(clustering: ClusteringConfig) -> str:
    """The kind of the stored tokens that a clustering setting divides into regions."""
    return "value" if clustering.tokens == "value_centred" else clustering.tokens


def tokens_fingerprint(config: Config, split: str) -> str:
    """The fingerprint of CLS and dense tokens.

    Args:
        split: fingerprint of the train shards.
    """
    return fingerprint(
        "tokens",
        teacher=config.teacher.model_dump(exclude=NOT_IN_TOKENS),
        weights=_weights(config),
        split=split,
        seed=config.data.seed,
    )


def text_output(config: Config, prompt: TextSet) -> Output:
    """The output that holds the text features of a class list."""
    file = WeightsSource.of(prompt.text_features).state()
    asked = prompt.model_dump(exclude_defaults=True)
    fp = fingerprint("text", prompt=asked, file=file, model=config.teacher.model, weights=_weights(config))
    return Output("text", fp)


def _weights(config: Config) -> Any:
    source = config.teacher.source
    return demo_fingerprint(config) if source.kind == "demo" else [source.text, source.state()]
