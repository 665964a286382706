"""A plain folder: images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png, classes.json (see classes_file.py).

A COCO file in labels/SPLIT takes the place of label maps, or explains them if it is a panoptic one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from posixpath import splitext

import numpy as np

from cliptea.config import DataConfig
from cliptea.data.catalogue import Catalogue, make_catalogue
from cliptea.data.classes_file import DESCRIPTION, Described, class_marks, label_rule, parse_description
from cliptea.data.coco_labels import CocoLabels
from cliptea.data.label_lists import Mark, parse_list
from cliptea.data.labels import LabelRule
from cliptea.data.reader import Pair, Reader
from cliptea.data.sample import SUFFIXES
from cliptea.data.source import Source, one_form
from cliptea.errors import DataError
from cliptea.names import visible
from cliptea.parse import MOST

__all__ = ["Folder"]

SPLITS = ("train", "val")
COCO = ".json"
MOVE = "move .json files of other kinds out of labels/train and labels/val"


class Folder(Reader):
    def __init__(self, config: DataConfig) -> None:
        super().__init__(
            Source(config.root, "images/, labels/ and classes.json"), "images/SPLIT/NAME.jpg with labels/SPLIT/NAME.png"
        )
        self._unseen = config.unseen
        self._coco_files: dict[str, str | None] = {}  # by split
        self._coco: dict[str, CocoLabels | None] = {}  # by split
        self._rules: dict[str, LabelRule] = {}  # by split

    @property
    def catalogue(self) -> Catalogue:
        unseen = self._described.unseen if self._unseen is None else self._unseen
        where = f"unseen in {DESCRIPTION}" if self._unseen is None else "data.unseen"
        named = self._named("val") if self._described.classes is None else self._listed
        return make_catalogue([*class_marks(self._described, named, self.source.where(DESCRIPTION))], unseen, where)

    def find_pairs(self, split: str) -> dict[str, Pair]:
        folder = f"images/{split}"
        images: dict[str, str] = {}
        for file in self.source.files(folder):
            name, suffix = splitext(one_form(file))
            if suffix not in SUFFIXES:
                continue
            if name in images:
                two = f"{visible(images[name])} and {visible(file)}"
                raise DataError(
                    f"two images in {self.source.where(folder)} share a name: {two}",
                    "each NAME once, with a single suffix",
                )
            images[name] = file
        if not images:
            raise DataError(
                f"{self.source.where(folder)} contains no images", "files such as NAME.jpg, with labels in labels/"
            )
        labels, rule = self._label_maps(split), self._rule(split)
        return {
            name: Pair(f"{folder}/{images[name]}", f"labels/{split}/{labels.get(name, f'{name}.png')}", rule)
            for name in sorted(images)
        }

    def values(self, pair: Pair) -> np.ndarray:
        _, split, file = pair.image.split("/", 2)
        coco = self._coco_labels(split)
        if coco is None:
            return super().values(pair)
        png = self.source.read(pair.labels) if coco.panoptic else None
        return coco.values(splitext(one_form(file))[0], png, self.source.where(pair.labels))

    def named(self, pair: Pair) -> str:
        _, split, file = pair.image.split("/", 2)
        coco, where = self._coco_labels(split), super().named(pair)
        return f"{where}: image {splitext(one_form(file))[0]}" if coco is not None and not coco.panoptic else where

    def left_out(self, splits: Sequence[str]) -> dict[str, list[str]]:
        found = super().left_out(splits)
        for split in splits:
            if coco := self._coco_labels(split):
                lone = [f"images/{split}/{name}" for name in coco.names if name not in self.pairs(split)]
                if lone:
                    found.setdefault("a COCO file lists them, but there are no such images", []).extend(lone)
        if not self.source.is_local:  # a listing of all of a bucket may take hours
            return found
        top = ("images", "labels", DESCRIPTION, self._described.label_list)
        for folder, known in (("", top), ("images", SPLITS), ("labels", SPLITS)):
            names = sorted({*self.source.files(folder), *self.source.others(folder)} - {*known})
            places = [f"{folder}/{name}" if folder else name for name in names]
            if places:
                found.setdefault("not in images/train, images/val, labels/train or labels/val", []).extend(places)
        return found

    def is_used(self, path: str) -> bool:
        kind, split, file = path.split("/", 2)
        return kind == "labels" and file == self._coco_file(split)

    def unused(self, path: str) -> str:
        kind, split, file = path.split("/", 2)
        name, suffix = splitext(one_form(file))
        if kind == "images":
            return f"their suffix is not one of {', '.join(SUFFIXES)}"
        if suffix not in SUFFIXES:
            return "they are not label maps"
        return "other labels have their name" if name in self.pairs(split) else "no image has their name"

    def _label_maps(self, split: str) -> Mapping[str, str]:
        """The file in labels/SPLIT with the labels of each name: a PNG, if several files share a name."""
        coco = self._coco_labels(split)
        if coco is not None:
            images = {splitext(one_form(file))[0] for file in self.source.files(f"images/{split}")}
            return {name: coco.png(name) if coco.panoptic else str(self._coco_file(split)) for name in images}
        labels: dict[str, str] = {}
        for file in self.source.files(f"labels/{split}"):
            name, suffix = splitext(one_form(file))
            if suffix == ".png" or (suffix in SUFFIXES and name not in labels):
                labels[name] = file
        return labels

    def _coco_file(self, split: str) -> str | None:
        if split not in self._coco_files:
            found = [(file, *splitext(one_form(file))) for file in self.source.files(f"labels/{split}")]
            masks = {name for _, name, suffix in found if suffix in SUFFIXES}
            # labelme leaves NAME.json next to NAME.png
            files = [file for file, name, suffix in found if suffix == COCO and name not in masks]
            if len(files) > 1:
                where = self.source.where(f"labels/{split}")
                raise DataError(f"{where} has several COCO files: {', '.join(files[:3])}", "one at most", MOVE)
            self._coco_files[split] = files[0] if files else None
        return self._coco_files[split]

    def _coco_labels(self, split: str) -> CocoLabels | None:
        if split not in self._coco:
            file = self._coco_file(split)
            path = f"labels/{split}/{file}"
            self._coco[split] = CocoLabels(self.source.read(path), self.source.where(path), MOVE) if file else None
        return self._coco[split]

    @cached_property
    def _described(self) -> Described:
        return parse_description(
            self._read_small(DESCRIPTION, 'a file such as {"classes": [...], "unseen": [...]}'),
            self.source.where(DESCRIPTION),
        )

    @cached_property
    def _listed(self) -> Mapping[str, Mark] | None:
        """The marks in the list of labels, by name."""
        file = self._described.label_list
        if file is None:
            return None
        data = self._read_small(file, f"the file that label_list in {DESCRIPTION} names")
        return parse_list(data, self.source.where(file))

    def _read_small(self, path: str, expected: str) -> bytes:
        where, size = self.source.where(path), self.source.size(path)
        if size is None:
            raise DataError(f"{where} is missing", expected)
        if size > MOST:
            raise DataError(f"{where} has {size} bytes", f"at most {MOST >> 20} MiB")
        return self.source.read(path)

    def _named(self, split: str) -> Mapping[str, Mark] | None:
        """The marks that have names: the categories of a COCO file, or the list of labels."""
        coco = self._coco_labels(split)
        if coco is not None and self._listed is not None:
            raise DataError(f"{coco.where} has categories, and {DESCRIPTION} names a label_list", "one of them")
        return self._listed if coco is None else coco.categories

    def _rule(self, split: str) -> LabelRule:
        """The meaning of the label maps of a split. Without COCO files, it is the same for both splits."""
        coco = self._coco_labels(split)
        key = split if coco else ""
        if key not in self._rules:
            described, classes = self._described, self.catalogue.classes
            if coco is not None and described.classes is None:  # the files of both splits may have their own order
                described = described.model_copy(update={"classes": classes})
                if missing := [name for name in classes if name not in coco.categories]:
                    raise DataError(
                        f"{coco.where} lacks the categories {', '.join(missing[:3])} of the val images",
                        "the same categories for train and val",
                    )
            where = self.source.where(DESCRIPTION)
            rule = label_rule(described, self._named(split), where, drawn=coco is not None)
            self._rules[key] = replace(rule, origin=coco.digest + rule.origin) if coco else rule
        return self._rules[key]
