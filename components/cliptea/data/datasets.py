"""Data set readers. A new data set is one class with the four members of `Dataset`, and one line in `DATASETS`.

Readers give images as stored and labels as *train ids*; nothing after the split step reads raw data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue
from cliptea.data.demo import Demo
from cliptea.data.folder import Folder
from cliptea.data.sample import Sample
from cliptea.errors import ConfigError

__all__ = ["DATASETS", "Dataset", "open_dataset"]


class Dataset(Protocol):
    @property
    def catalogue(self) -> Catalogue: ...

    def ids(self, split: str) -> list[str]:
        """Names of the images of "train" or "val", in a fixed order."""
        ...

    def read(self, split: str, name: str) -> Sample:
        """One image with its labels; a DataError names the file when they do not fit."""
        ...

    def digest(self) -> str:
        """Changes when the raw data change."""
        ...


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {"demo": Demo, "folder": Folder}


def open_dataset(config: DataConfig) -> Dataset:
    """The reader that `data.dataset` names.

    Raises:
        ConfigError: there is no such data set.
    """
    if config.dataset not in DATASETS:
        raise ConfigError(f"there is no data set {config.dataset!r}", "one of " + ", ".join(DATASETS))
    return DATASETS[config.dataset](config)
