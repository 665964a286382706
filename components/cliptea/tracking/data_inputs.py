"""Data sets as MLflow knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag

from cliptea.config import Config
from cliptea.manifest import Manifest

__all__ = ["dataset_inputs"]


def dataset_inputs(config: Config, splits: Mapping[str, Manifest]) -> list[DatasetInput]:
    """Data sets as inputs of MLflow runs, with their digests and numbers of images.

    Args:
        splits: shards of the training data set and of further evaluation sets, by name.
    """
    roots = {config.data.name: config.data.root}
    roots |= {name: further.root for name, further in config.evaluation.sets.items()}
    contexts = dict.fromkeys(splits, "evaluation") | {config.data.name: "training"}
    return [
        DatasetInput(_dataset(name, split, roots[name]), [InputTag("mlflow.data.context", contexts[name])])
        for name, split in splits.items()
    ]


def _dataset(name: str, split: Manifest, root: str | None) -> Dataset:
    return Dataset(
        name=name,
        digest=split.fingerprint,
        source_type="cliptea",
        source=json.dumps({"root": root, "shards": split.output.manifest_key}),
        profile=json.dumps({part: counts["images"] for part, counts in split.info["counts"].items()}),
    )
