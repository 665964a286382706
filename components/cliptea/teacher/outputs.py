"""The outputs of the teacher. This module does not import torch.

For each view of each training image, the teacher computes the CLS token (float32), the dense tokens (float16) unless
`teacher.keep_dense` is off, and the region map of the pixel learning module (uint8) for each clustering setting that a
variant needs. It also computes text features for the classes of every evaluation set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from cliptea.config import ClusteringConfig, Config
from cliptea.data.shard_sets import ShardEntry
from cliptea.manifest import Output, fingerprint
from cliptea.teacher.demo_clip import demo_fingerprint
from cliptea.weights_source import WeightsSource

__all__ = ["SHARDS", "MadeBlock", "TextSet", "ViewOutput", "clustering_key", "text_output", "tokens_fingerprint"]

# settings of the teacher that do not affect its tokens, or that are part of the fingerprint in another form
NOT_IN_TOKENS = {"batch_size", "compile", "keep_dense", "num_workers", "pretrain", "templates", "text_features"}
SHARDS = {"tokens": "cls", "dense": "dense", "regions": "regions"}  # kind -> name of the shard set


class ViewOutput(NamedTuple):
    """An output for all views: "tokens", "dense" tokens, or "regions" with a clustering setting."""

    output: Output
    clustering: ClusteringConfig | None = None

    @property
    def folder(self) -> str:
        """The folder of its shards."""
        return f"{self.output.prefix}/{SHARDS[self.output.kind]}"


class MadeBlock(BaseModel):
    """The shards of a block by the output's folder and, for region maps, the number of regions.

    `shape` is (D, g, g), or None if all outputs of the block existed.
    """

    number: int
    shards: dict[str, list[ShardEntry]] = {}
    regions: dict[str, int] = {}
    shape: tuple[int, ...] | None = None


class TextSet(BaseModel):
    """Class names for text features, with prompt templates and an optional file with the features."""

    classes: list[str]
    templates: str
    text_features: str | None


def clustering_key(clustering: ClusteringConfig) -> str:
    """Name of one clustering setting."""
    return fingerprint("clustering", clustering=clustering)[:8]


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
    fp = fingerprint("text", prompt=prompt, file=file, model=config.teacher.model, weights=_weights(config))
    return Output("text", fp)


def _weights(config: Config) -> Any:
    source = config.teacher.source
    return demo_fingerprint(config) if source.kind == "demo" else [source.text, source.state()]
