"""Converts raw data to train and val shards."""

from collections.abc import Sequence

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import DataConfig
from cliptea.data.shard_sets import find_sharded
from cliptea.manifest import Contents, Manifest, Output, fingerprint, make_once
from cliptea.run import Run
from cliptea.steps.component import step
from cliptea.storage import open_store
from cliptea.tracking.deferred import Entry, Receipt, log_or_defer, receipt

__all__ = ["BOTH", "VAL", "DataEntry", "Splits", "log_splits", "make_splits", "split", "split_output"]

BOTH, VAL = ("train", "val"), ("val",)  # the parts of the training data set, and of further evaluation sets


@step()
def split(run: dsl.Input[dsl.Artifact], shards: dsl.Output[dsl.Artifact]):
    from cliptea.steps.common import run_step, write
    from cliptea.steps.split import log_splits, make_splits

    def work(present):
        splits = make_splits(present)
        log_splits(present, splits)
        write(shards, splits)

    run_step("split", work, run=run)


class Splits(BaseModel):
    """The output of the split step."""

    own: Manifest  # train and val shards of the training data set
    others: dict[str, Manifest] = {}  # val shards of further evaluation sets, by name

    def named(self, dataset: str) -> dict[str, Manifest]:
        """All shards by name. The training data set gets the name `dataset` and comes first."""
        return {dataset: self.own, **self.others}


def make_splits(run: Run) -> Splits:
    """Create the missing shards of the training data set and of the further evaluation sets."""
    config = run.config
    own, made = _make(config.data, run.data_digest, BOTH)
    others = {}
    for name, further in config.evaluation.sets.items():
        others[name], new = _make(further.data(name, config.data), run.evaluation_digests[name], VAL)
        made = made or new
    if not made:
        progress.reused()
    return Splits(own=own, others=others)


def _make(config: DataConfig, digest: str, parts: Sequence[str]) -> tuple[Manifest, bool]:
    """The shards of a data set, and whether they are new. Arguments as of `split_output`."""
    store, output = open_store(), split_output(config, digest, parts)

    def write() -> Contents:
        from cliptea.data.split_shards import write_split

        return write_split(store, config, output.prefix, parts)

    return make_once(store, output, write, find_sharded)


def split_output(config: DataConfig, digest: str, parts: Sequence[str]) -> Output:
    """The output for a data set. It depends on its raw data, its class list, `parts`, `shard_mib` and `max_bad`.

    Args:
        digest: digest of its raw data.
        parts: `BOTH` or `VAL`.
    """
    from cliptea.data.datasets import open_dataset

    catalogue = open_dataset(config).catalogue
    spared = {"max_bad": config.max_bad} if config.max_bad else {}
    fp = fingerprint("split", catalogue=catalogue, data=digest, parts=parts, mib=config.shard_mib, **spared)
    return Output("split", fp)


def log_splits(run: Run, splits: Splits) -> None:
    """Log the data sets to the run in MLflow, unless this was already done."""
    store, entry = open_store(), DataEntry(splits=splits.named(run.config.data.name))
    if receipt(store, run, entry.name) is None:
        log_or_defer(store, run, entry)


class DataEntry(Entry):
    """The data sets of a run, with the numbers of pixels and images of each class, for MLflow."""

    kind = "data"
    splits: dict[str, Manifest]  # by the name of the data set

    @property
    def name(self) -> str:
        fps = {name: manifest.fingerprint for name, manifest in self.splits.items()}
        return f"data-{fingerprint('data', splits=fps)}"

    @property
    def what(self) -> str:
        return "facts about the data"

    def log(self, run: Run) -> Receipt:
        from cliptea.tracking.data_inputs import dataset_inputs
        from cliptea.tracking.mlflow_client import connect

        client = connect()
        client.log_inputs(run.tracking_run, dataset_inputs(run.config, self.splits))
        for name, manifest in self.splits.items():
            client.log_dict(run.tracking_run, manifest.info, f"data/{name}.json")
        return Receipt()
