"""The demo world as a data set. Scenes are rendered on demand."""

from __future__ import annotations

from collections.abc import Sequence

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue, make_catalogue
from cliptea.data.sample import Sample, encode_png
from cliptea.data.world import CLASSES, UNSEEN, World
from cliptea.manifest import fingerprint

__all__ = ["Demo"]


class Demo:
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

    def digest(self, splits: Sequence[str] = ("train", "val")) -> str:
        return fingerprint("world", world=self._config.world, seed=self._config.seed)
