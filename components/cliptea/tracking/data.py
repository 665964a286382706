"""The data of a pipeline run in MLflow: each data set with its digest and, for every class, its pixels and images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cliptea.data.split import Splits
from cliptea.manifest import Manifest, fingerprint
from cliptea.storage import open_store

if TYPE_CHECKING:
    from mlflow.entities import Dataset, DatasetInput

    from cliptea.config import Config
    from cliptea.runs import Run

__all__ = ["dataset_inputs", "log_data", "tell_data"]


def log_data(run: Run, splits: dict[str, Any]) -> None:
    """Log the run's data set and its further evaluation sets to its MLflow run, once; later, while MLflow is away.

    Args:
        run: with the id of its MLflow run.
        splits: a dumped `Splits`.
    """
    store, fps = open_store(), {name: split.fingerprint for name, split in _named(run, splits).items()}
    name = f"data-{fingerprint('data', splits=fps)}"
    from cliptea.tracking.untold import Untold, tell, told

    if told(store, run, name) is None:
        untold = Untold(kind="data", what="facts about the data", inputs={"splits": splits})
        tell(store, run, name, tell_data, untold)


def tell_data(run: Run, splits: dict[str, Any]) -> dict[str, Any]:
    """Log them now; as `log_data`."""
    from cliptea.tracking.client import connect

    client, named = connect(), _named(run, splits)
    client.log_inputs(run.tracking_run, dataset_inputs(run.config, named))
    for name, split in named.items():
        client.log_dict(run.tracking_run, split.info, f"data/{name}.json")
    return {name: split.fingerprint for name, split in named.items()}


def _named(run: Run, splits: dict[str, Any]) -> dict[str, Manifest]:
    shards = Splits.model_validate(splits)
    return {run.config.data.dataset: shards.own, **shards.others}


def dataset_inputs(config: Config, splits: dict[str, Manifest]) -> list[DatasetInput]:
    """The data sets as MLflow's entities.

    Args:
        config: the run's.
        splits: shards of the data set itself and of further evaluation sets, by name.
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
