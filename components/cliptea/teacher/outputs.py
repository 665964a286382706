"""What the teacher makes, known without torch.

For each view of each training image: the CLS token (float32), the dense tokens (float16) unless `teacher.keep_dense`
is off, and for each clustering setting that a variant needs the region map of the pixel learning module (uint8). And
the text features of the classes of every evaluation set.
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

# settings of the teacher that its tokens do not depend on, or that stand for what is told otherwise
NOT_IN_TOKENS = {"batch_size", "keep_dense", "num_workers", "pretrain", "templates", "text_features"}
SHARDS = {"tokens": "cls", "dense": "dense", "regions": "regions"}  # kind -> name of the shard set


class ViewOutput(NamedTuple):
    """Something that is made of views: their "tokens", "dense" tokens, or "regions" under a clustering setting."""

    output: Output
    clustering: ClusteringConfig | None = None

    @property
    def folder(self) -> str:
        """Folder of its shards."""
        return f"{self.output.prefix}/{SHARDS[self.output.kind]}"


class MadeBlock(BaseModel):
    """A block's shards and, of region maps, the number of regions, by the output's folder.

    `shape` is (D, g, g), and None when nothing had to be made.
    """

    number: int
    shards: dict[str, list[ShardEntry]] = {}
    regions: dict[str, int] = {}
    shape: tuple[int, ...] | None = None


class TextSet(BaseModel):
    """Class names whose text features are wanted, how they are prompted, and the file that may hold the features."""

    classes: list[str]
    templates: str
    text_features: str | None


def clustering_key(clustering: ClusteringConfig) -> str:
    """Name of one clustering setting."""
    return fingerprint("clustering", clustering=clustering)[:8]


def tokens_fingerprint(config: Config, split: str) -> str:
    """Of CLS and dense tokens.

    Args:
        config: the run's.
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
