"""Converts raw data to train and val shards."""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import Config, DataConfig
from cliptea.data.left_out import count
from cliptea.data.shard_sets import find_sharded
from cliptea.manifest import Manifest, Output, fingerprint, make_once
from cliptea.messages import number_of
from cliptea.names import as_known
from cliptea.run import Run
from cliptea.steps.component import step
from cliptea.storage import open_store
from cliptea.tracking.deferred import Entry, Receipt, log_or_defer, receipt

__all__ = [
    "BOTH", "VAL", "DataEntry", "Splits", "left_out_of", "log_splits", "make_splits", "missing_figures", "problems_of",
    "split", "split_output",
]  # fmt: skip

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
    """Create the missing shards of the training data set and of the further evaluation sets.

    What the data sets leave out is counted anew, as shards are reused when only files change that they do not hold.
    """
    config = run.config
    own, made = _make(config.data, run.data_digest, BOTH)
    others = {}
    for name, further in config.evaluation.sets.items():
        others[name], new = _make(further.data(name, config.data), run.evaluation_digests[name], VAL)
        made = made or new
    if not made:
        progress.reused()
    splits = Splits(own=own, others=others)
    for line in [*problems_of(splits), *missing_figures(config, splits)]:
        progress.warn(line)
    return splits


def problems_of(splits: Splits) -> list[str]:
    """A line for each problem of the data sets, such as what they leave out."""
    named = {"": splits.own, **{f"{name}: ": split for name, split in splits.others.items()}}
    return [f"{before}{problem}" for before, split in named.items() for problem in split.info["problems"]]


def left_out_of(splits: Mapping[str, Manifest]) -> dict[str, Any]:
    """What is left out of the data sets that leave out anything, by their name, for fingerprints."""
    return {name: split.info["left_out"] for name, split in splits.items() if split.info.get("left_out")}


def missing_figures(config: Config, splits: Splits) -> list[str]:
    """A line for each part of a data set that leaves out images which `evaluation.figures` names."""
    wanted = config.evaluation.figures
    if isinstance(wanted, int):
        return []
    lines = []
    for dataset, manifest in splits.named(config.data.name).items():
        for part, bad in manifest.info["bad_images"].items():
            if left_out := sorted({*as_known(wanted, list(bad))} & bad.keys()):
                lines.append(
                    f"evaluation.figures names {number_of(len(left_out), f'{part} image')} of {dataset} that cannot be "
                    f"used, and that the report does not show: {', '.join(left_out)}"
                )
    return lines


def _make(config: DataConfig, digest: str, parts: Sequence[str]) -> tuple[Manifest, bool]:
    """The shards of a data set, and whether they are new. Arguments as for `split_output`."""
    from cliptea.data.datasets import open_dataset
    from cliptea.data.split_shards import with_left_out, write_split

    store, output = open_store(), split_output(config, digest, parts)
    manifest, made = make_once(store, output, lambda: write_split(store, config, output.prefix, parts), find_sharded)
    if not made:
        left_out = count(open_dataset(config).left_out(parts))
        manifest = manifest.model_copy(update={"info": with_left_out(manifest.info, left_out)})
    return manifest, made


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
        left_out = left_out_of(self.splits)
        return f"data-{fingerprint('data', splits=fps, **({'left_out': left_out} if left_out else {}))}"

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
