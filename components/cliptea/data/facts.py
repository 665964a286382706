"""Facts about published data sets, from `facts.yaml` in this folder. The file is read once and checked."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cliptea.data.catalogue import IGNORE
from cliptea.errors import ConfigError
from cliptea.parse import parse_yaml

__all__ = ["Facts", "LabelFacts", "SplitFacts", "facts"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelFacts(_Section):
    """The paths of label maps, and the meaning of pixel values: the released `values`, or train ids (`classes`)."""

    path: str
    holds: Literal["values", "classes"] = "values"
    beyond: str  # what maps with larger values probably are


class SplitFacts(_Section):
    """The images of a split: the accepted numbers of images, and the list or folder with their names."""

    images: list[int]
    file: str = ""
    union: list[str] = []
    folder: str = ""


class Facts(_Section):
    """One data set. Patterns contain {id} and, for splits in folders, {folder}. Paths are relative to the root."""

    title: str
    roots: list[str]
    marks: list[str]
    images: str
    labels: list[LabelFacts]
    id: str = ".+"  # regular expression of image ids, if images are found by their label maps
    splits: dict[str, SplitFacts]
    train: str  # the paper's training split
    coloured: bool = False
    values: list[str]
    classless: list[str]
    unseen: list[str]
    common: list[str]
    orders: dict[str, list[str]] = {}

    @property
    def classes(self) -> list[str]:
        """Class names in the order of their train ids."""
        return [name for name in self.values if name not in self.classless]

    def train_list(self, name: str | None) -> str:
        """The key in `splits` of a training list. None selects the list of the paper.

        Raises:
            ConfigError: the list does not exist.
        """
        name = name or self.train
        if name not in self.splits:
            raise ConfigError(
                f"data.train_list={name} does not exist for {self.title}", "one of " + ", ".join(self.splits)
            )
        return name

    def names(self, labels: LabelFacts) -> list[str]:
        """Names of the pixel values 0, 1, 2, ... in label maps of this kind."""
        return self.values if labels.holds == "values" else self.classes

    def train_ids(self, labels: LabelFacts) -> list[int]:
        """Train ids of the pixel values 0, 1, 2, ... in label maps of this kind. 255 if the name is not a class."""
        index = {name: number for number, name in enumerate(self.classes)}
        return [index.get(name, IGNORE) for name in self.names(labels)]


@cache
def facts(name: str) -> Facts:
    """The facts of the data set `name`, a key of facts.yaml."""
    text = resources.files("cliptea.data").joinpath("facts.yaml").read_text(encoding="utf-8")
    return Facts.model_validate(parse_yaml(text, "facts.yaml")[name])
