"""The base class for data sets of files, which are pairs of an image and a label map from a `Source`."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliptea.data.catalogue import Catalogue
from cliptea.data.labels import LabelRule, decode_values
from cliptea.data.left_out import UNLISTED
from cliptea.data.sample import Sample, size_of_image
from cliptea.data.source import Source
from cliptea.errors import DataError

__all__ = ["Pair", "Reader"]

READING = 2  # increment it when the same files give other samples
READING_OTHERS = b"1"  # the same for label maps that are no PNG, so that data sets with PNGs keep their outputs
LOOKED_AT = 64  # number of label maps of a split that are checked before the split is read


class Pair(NamedTuple):
    """The paths of an image and its label map, and the meaning of the label map's values."""

    image: str
    labels: str
    rule: LabelRule


class Decoded(NamedTuple):
    """An image and its label map, which have the same size."""

    pair: Pair
    image: bytes  # as stored
    turned: bool  # by its EXIF orientation
    values: np.ndarray  # (H, W) uint8 or uint16, not yet train ids


class Reader(ABC):
    """A data set of image files and label maps. Only splits that are used are read."""

    def __init__(self, source: Source, layout: str, todo: str = "") -> None:
        """
        Args:
            source: the files.
            layout: the expected paths of images and label maps, for errors about missing files.
            todo: another solution for that error.
        """
        self.source = source
        self._layout, self._todo = layout, todo
        self._known: dict[str, dict[str, Pair]] = {}
        self.spares = False  # whether `check` leaves single images that cannot be used to `read`: data.max_bad is set

    @property
    @abstractmethod
    def catalogue(self) -> Catalogue: ...

    @abstractmethod
    def find_pairs(self, split: str) -> dict[str, Pair]:
        """The pairs of "train" or "val", sorted by the image's name. The files may be missing."""

    def doubts(self, split: str, found: dict[LabelRule, np.ndarray]) -> list[str]:
        """Warnings about a split, based on the values `found` (maps, N) bool in a sample of its label maps.

        Raises:
            DataError: the label maps are of a wrong kind.
        """
        return []

    def values(self, pair: Pair) -> np.ndarray:
        """(H, W) uint8 or uint16 values of a label map, which the pair's rule turns into train ids."""
        return decode_values(self.source.read(pair.labels), self.source.where(pair.labels), pair.rule.colours)

    def named(self, pair: Pair) -> str:
        """The labels of a pair, for errors."""
        return self.source.where(pair.labels)

    def pairs(self, split: str) -> dict[str, Pair]:
        if split not in self._known:
            find = self.source.find
            self._known[split] = {
                name: Pair(find(image), find(labels), rule)
                for name, (image, labels, rule) in self.find_pairs(split).items()
            }
        return self._known[split]

    def ids(self, split: str) -> list[str]:
        return list(self.pairs(split))

    def left_out(self, splits: Sequence[str]) -> dict[str, list[str]]:
        """What is in the folders of these splits and is not read: paths by the reason."""
        used = {path for split in splits for pair in self.pairs(split).values() for path in pair[:2]}
        found = defaultdict(list)
        for folder in sorted({path.rpartition("/")[0] for path in used}):
            for name, reason in sorted(self.source.others(folder).items()):
                found[reason].append(f"{folder}/{name}")
            for path in (f"{folder}/{name}" for name in self.source.files(folder)):
                if path not in used and not self.is_used(path):
                    found[self.unused(path)].append(path)
        return dict(found)

    def is_used(self, path: str) -> bool:
        """Whether a file in a folder of the data set, which is of no pair, is used all the same."""
        return False

    def unused(self, path: str) -> str:
        """Why a file in a folder of the data set is not read."""
        return UNLISTED

    def check(self, split: str) -> list[str]:
        """Check whether a split can be read, using its file list and a sample of its label maps.

        Returns:
            Warnings of one line each.

        Raises:
            DataError: a file is missing, or the label maps are of a wrong kind.
        """
        pairs = list(self.pairs(split).values())
        if not self.spares:
            self._require([path for pair in pairs for path in pair[:2]])
        found = defaultdict(list)
        for pair in pairs[:: -(-len(pairs) // LOOKED_AT)]:
            try:
                self._require([pair.labels])
                values = self.values(pair)
                pair.rule.train_ids(values, self.named(pair))
            except DataError:
                if not self.spares:
                    raise
                continue
            found[pair.rule].append(np.bincount(values.ravel(), minlength=len(pair.rule.table)) > 0)
        return self.doubts(split, {rule: np.stack(rows) for rule, rows in found.items()})

    def read(self, split: str, name: str) -> Sample:
        """One image with its labels.

        Raises:
            DataError: a file is missing, damaged, of a wrong kind, or the two differ in size.
        """
        decoded = self._decoded(split, name)
        labels = decoded.pair.rule.train_ids(decoded.values, self.named(decoded.pair))
        suffix = decoded.pair.image.rpartition(".")[2].lower()
        return Sample(decoded.image, suffix, labels, decoded.turned, labels.shape)

    def count(self, split: str, name: str) -> tuple[bytes, bool, np.ndarray]:
        """What `read` would give, counted: the image's bytes, whether it is turned, and its pixels of each train id.

        Raises:
            DataError: as for `read`.
        """
        decoded = self._decoded(split, name)
        return decoded.image, decoded.turned, decoded.pair.rule.count(decoded.values, self.named(decoded.pair))

    def _decoded(self, split: str, name: str) -> Decoded:
        pair = self.pairs(split)[name]
        self._require(pair[:2])
        data = self.source.read(pair.image)
        size, turned = size_of_image(data, self.source.where(pair.image))
        values = self.values(pair)
        if size != values.shape:
            how = ", turned upright as its EXIF orientation says" if turned else ""
            raise DataError(
                f"{self.named(pair)} has {values.shape[1]}x{values.shape[0]} pixels, but its image has "
                f"{size[1]}x{size[0]}{how}",
                "an image and a label map of the same size",
                "turn the label map as well, or remove the orientation from the image" if turned else "",
            )
        return Decoded(pair, data, turned, values)

    def digest(self, splits: Sequence[str] = ("train", "val")) -> str:
        """sha256 of the classes, the meaning of label values, and the path, size and version of every file used."""
        digest = hashlib.sha256(f"{READING}\n{self.catalogue.model_dump_json()}\n".encode())
        for split in splits:
            pairs = self.pairs(split).values()
            for rule in dict.fromkeys(pair.rule for pair in pairs):
                digest.update(rule.table.tobytes() + rule.origin)
            paths = (path for pair in pairs for path in pair[:2])
            digest.update("".join(f"{split}\0{path}\0{self._state(path)}\n" for path in paths).encode())
            if not all(pair.labels.lower().endswith((".png", ".json")) for pair in pairs):
                digest.update(READING_OTHERS)
        return digest.hexdigest()

    def _state(self, path: str) -> str:
        entry = self.source.entry(path)
        return f"{entry.size}\0{entry.version}" if entry else "missing"

    def _require(self, paths: Sequence[str]) -> None:
        missing = [path for path in paths if self.source.entry(path) is None]
        if missing:
            others = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            why = self.source.absence(missing[0])
            raise DataError(f"{self.source.where(missing[0])} is {why}{others}", self._layout, self._todo)
