"""Data sets as inputs of MLflow runs, with their digests and numbers of images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cliptea.manifest import Manifest

if TYPE_CHECKING:
    from mlflow.entities import Dataset, DatasetInput

    from cliptea.config import Config

__all__ = ["dataset_inputs"]


def dataset_inputs(config: Config, splits: Mapping[str, Manifest]) -> list[DatasetInput]:
    """The data sets as MLflow entities.

    Args:
        config: the settings of the run.
        splits: shards of the training data set and of further evaluation sets, by name.
    """
    from mlflow.entities import DatasetInput, InputTag

    roots = {config.data.dataset: config.data.root}
    roots |= {name: further.root for name, further in config.evaluation.sets.items()}
    contexts = dict.fromkeys(splits, "evaluation") | {config.data.dataset: "training"}
    return [
        DatasetInput(_dataset(name, split, roots[name]), [InputTag("mlflow.data.context", contexts[name])])
        for name, split in splits.items()
    ]


def _dataset(name: str, split: Manifest, root: str | None) -> Dataset:
    from mlflow.entities import Dataset

    return Dataset(
        name=name,
        digest=split.fingerprint,
        source_type="cliptea",
        source=json.dumps({"root": root, "shards": split.output.manifest_key}),
        profile=json.dumps({part: counts["images"] for part, counts in split.info["counts"].items()}),
    )
