"""Data set readers. A new data set is one class with the members of `Dataset`, and one line in `DATASETS`.

A data set of files derives from `reader.Reader` and needs two of them; a published one whose layout is like
another's only needs a section in facts.yaml. A data set of the user's own is such a class as well, and
`data.dataset=package.module:Class` names it. Readers return images as stored and labels as *train ids*. No code after
the split step reads raw data.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Protocol

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue, make_catalogue
from cliptea.data.facts import facts
from cliptea.data.folder import Folder
from cliptea.data.published import Published
from cliptea.data.reader import Reader
from cliptea.data.sample import Sample, encode_png
from cliptea.data.world import CLASSES, UNSEEN, World
from cliptea.errors import ClipteaError, ConfigError, refuse_system
from cliptea.manifest import fingerprint
from cliptea.own_code import find_code, names_code, source_of

__all__ = ["DATASETS", "MEMBERS", "Dataset", "data_digest", "open_dataset", "train_images"]


class Dataset(Protocol):
    """A data set. Its splits are "train" and "val". A data set that is only used for evaluation has no train split."""

    @property
    def catalogue(self) -> Catalogue: ...

    def ids(self, split: str) -> list[str]:
        """Names of the images of a split, in a fixed order."""
        ...

    def check(self, split: str) -> list[str]:
        """Check a split before it is read. Returns warnings, or raises DataError if it cannot be read."""
        ...

    def left_out(self, splits: Sequence[str]) -> dict[str, list[str]]:
        """What is in the folders of these splits and is not read: paths by the reason."""
        ...

    def read(self, split: str, name: str) -> Sample:
        """One image with its labels. If they do not match, a DataError names the file."""
        ...

    def digest(self, splits: Sequence[str] = ("train", "val")) -> str:
        """A digest that changes with the raw data of these splits."""
        ...


class Demo:
    """The demo world as a data set. Scenes are rendered on demand."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._world = World(config.world, config.seed)

    @property
    def catalogue(self) -> Catalogue:
        return make_catalogue(CLASSES, UNSEEN if self._config.unseen is None else self._config.unseen)

    def ids(self, split: str) -> list[str]:
        world = self._config.world
        number = world.train_scenes if split == "train" else world.val_scenes
        return [f"{split}{index:05d}" for index in range(number)]

    def read(self, split: str, name: str) -> Sample:
        image, labels = self._world.scene("train" if split == "train" else "val", int(name.removeprefix(split)))
        return Sample(encode_png(image), "png", labels)

    def check(self, split: str) -> list[str]:
        return []

    def left_out(self, splits: Sequence[str]) -> dict[str, list[str]]:
        return {}

    def digest(self, splits: Sequence[str] = ("train", "val")) -> str:
        return fingerprint("world", world=self._config.world, seed=self._config.seed)


DATASETS: dict[str, Callable[[DataConfig], Dataset]] = {
    "demo": Demo,
    "folder": Folder,
    "voc12": Published,
    "coco_stuff164k": Published,
    "pascal_context": Published,
}


MEMBERS = ("catalogue", "ids", "check", "left_out", "read", "digest")  # of a data set
# Settings of the data that the digest of a data set of the user's own does not depend on. The digest of the data set
# itself covers the files in `root`, and the others only count after reading.
NOT_IN_DIGEST = {"root", "max_bad", "shard_mib", "synonyms"}


def open_dataset(config: DataConfig) -> Dataset:
    """The reader for `data.dataset`.

    Raises:
        ConfigError: the data set does not exist, or is no class for data sets.
    """
    dataset = _open(config)
    if isinstance(dataset, Reader):
        dataset.spares = config.max_bad > 0
    return dataset


def _open(config: DataConfig) -> Dataset:
    if names_code(config.dataset):
        return _open_own(config)
    if config.dataset not in DATASETS:
        raise ConfigError(
            f"the data set {config.dataset!r} does not exist",
            f"one of {', '.join(DATASETS)}, or package.module:Class for one of your own",
        )
    return DATASETS[config.dataset](config)


def data_digest(config: DataConfig, splits: Sequence[str] = ("train", "val")) -> str:
    """A digest that changes with the raw data of these splits.

    That of a data set of the user's own also changes with its module and with the settings that it is called with.
    """
    digest = open_dataset(config).digest(splits)
    if not names_code(config.dataset):
        return digest
    settings = config.model_dump_json(exclude=NOT_IN_DIGEST)
    return hashlib.sha256(f"{digest}\0{settings}\0".encode() + source_of(config.dataset)).hexdigest()


def _open_own(config: DataConfig) -> Dataset:
    module, name = find_code(config.dataset, "data set", "package.module:Class")
    if name in DATASETS:
        raise ConfigError(f"the class of {config.dataset} has the name of a data set of cliptea", "another name")
    expected = "a class that is called with the settings `data`, such as a subclass of cliptea.data.reader.Reader"
    try:
        dataset = getattr(importlib.import_module(module), name)(config)
        # Not hasattr(), which would call properties and so hide their errors.
        lacking = [member for member in MEMBERS if inspect.getattr_static(dataset, member, None) is None]
        catalogue = None if lacking else dataset.catalogue
    except ClipteaError:
        raise
    except Exception as error:  # this runs the user's code
        refuse_system(error, f"cannot create the data set {config.dataset}")
        raise ConfigError(
            f"the data set {config.dataset} cannot be created: {type(error).__name__}: {error}", expected
        ) from error
    if lacking:
        raise ConfigError(f"the data set {config.dataset} has no {lacking[0]}", expected)
    if not isinstance(catalogue, Catalogue):
        raise ConfigError(
            f"the data set {config.dataset} has a catalogue of type {type(catalogue).__name__}",
            "a cliptea.data.catalogue.Catalogue",
        )
    make_catalogue(catalogue.classes, catalogue.unseen, f"the catalogue of {config.dataset}")  # it may be made by hand
    return dataset


def train_images(config: DataConfig) -> int | None:
    """The number of training images from settings and published facts, without reading data. None if unknown."""
    if config.dataset == "demo":
        return config.world.train_scenes
    if DATASETS.get(config.dataset) is not Published:
        return None
    known = facts(config.dataset)
    return known.splits[known.train_list(config.train_list)].images[0]
