"""Data set readers. A new data set is one class with the members of `Dataset`, and one line in `DATASETS`.

A data set of files derives from `reader.Reader` and needs two of them; a published one whose layout is like
another's needs a section of facts.yaml only. Readers give images as stored and labels as *train ids*; nothing
after the split step reads raw data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.demo_scenes import Demo
from cliptea.data.facts import facts
from cliptea.data.folder import Folder
from cliptea.data.published import Published
from cliptea.data.sample import Sample
from cliptea.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "open_dataset", "train_images"]


class Dataset(Protocol):
    """Splits are "train" and "val". A data set that is only evaluated on needs no train split."""

    @property
    def catalogue(self) -> Catalogue: ...

    def ids(self, split: str) -> list[str]:
        """Names of the images of a split, in a fixed order."""
        ...

    def check(self, split: str) -> list[str]:
        """Warnings about a split that is about to be read; a DataError says why it cannot be."""
        ...

    def read(self, split: str, name: str) -> Sample:
        """One image with its labels; a DataError names the file when they do not fit."""
        ...

    def digest(self, splits: Sequence[str] = ("train", "val")) -> str:
        """Changes when the raw data of these splits change."""
        ...


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "demo": Demo,
    "folder": Folder,
    "voc12": Published,
    "coco_stuff164k": Published,
    "pascal_context": Published,
}


def open_dataset(config: DataConfig) -> Dataset:
    """The reader that `data.dataset` names.

    Raises:
        ConfigError: there is no such data set.
    """
    if config.dataset not in DATASETS:
        raise ConfigError(f"the data set {config.dataset!r} does not exist", "one of " + ", ".join(DATASETS))
    return DATASETS[config.dataset](config)


def train_images(config: DataConfig) -> int | None:
    """Training images by settings and published facts, without a look at the data; None where these do not tell."""
    if config.dataset == "demo":
        return config.world.train_scenes
    if DATASETS.get(config.dataset) is not Published:
        return None
    known = facts(config.dataset)
    return known.splits[known.train_list(config.train_list)].images[0]
