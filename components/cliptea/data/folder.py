"""A plain folder: images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png, classes.json.

classes.json holds `classes` (names in the order of the label ids), `unseen` (names) and, where they differ from
the defaults, `first_id` (the label id of the first class, 0) and `ignore_index` (the id of no class, 255).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from posixpath import splitext

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cliptea.config import DataConfig
from cliptea.data.catalogue import IGNORE, Catalogue, make_catalogue
from cliptea.data.labels import LabelRule
from cliptea.data.reader import Pair, Reader
from cliptea.data.sample import SUFFIXES
from cliptea.data.source import Source, one_form
from cliptea.errors import ConfigError, DataError
from cliptea.parse import MOST, parse_json

__all__ = ["Folder"]

SPLITS = ("train", "val")
DESCRIPTION = "classes.json"


class Described(BaseModel):
    """classes.json."""

    model_config = ConfigDict(extra="forbid", strict=True)

    classes: list[str]
    unseen: list[str] = []
    first_id: int = Field(0, ge=0, le=IGNORE - 1)
    ignore_index: int = Field(IGNORE, ge=0, le=IGNORE)


class Folder(Reader):
    def __init__(self, config: DataConfig) -> None:
        super().__init__(
            Source(config.root, "images/, labels/ and classes.json"), "images/SPLIT/NAME.jpg with labels/SPLIT/NAME.png"
        )
        self._unseen = config.unseen

    @property
    def catalogue(self) -> Catalogue:
        unseen = self._described.unseen if self._unseen is None else self._unseen
        where = f"unseen in {DESCRIPTION}" if self._unseen is None else "data.unseen"
        return make_catalogue(self._described.classes, unseen, where)

    def find_pairs(self, split: str) -> dict[str, Pair]:
        folder = f"images/{split}"
        images: dict[str, str] = {}
        for file in self.source.files(folder):
            name, suffix = splitext(one_form(file))
            if suffix not in SUFFIXES:
                continue
            if name in images:
                raise DataError(
                    f"two images in {self.source.where(folder)} share a name: {images[name]} and {file}",
                    "each NAME once, with a single suffix",
                )
            images[name] = file
        if not images:
            raise DataError(
                f"{self.source.where(folder)} contains no images", "files such as NAME.jpg, with labels in labels/"
            )
        return {
            name: Pair(f"{folder}/{images[name]}", f"labels/{split}/{name}.png", self._rule) for name in sorted(images)
        }

    def left_out(self, splits: Sequence[str]) -> dict[str, list[str]]:
        found = super().left_out(splits)
        if not self.source.is_local:  # a listing of all of a bucket may take hours
            return found
        for folder, known in (("", ("images", "labels", DESCRIPTION)), ("images", SPLITS), ("labels", SPLITS)):
            names = sorted({*self.source.files(folder), *self.source.others(folder)} - {*known})
            places = [f"{folder}/{name}" if folder else name for name in names]
            if places:
                found.setdefault("not in images/train, images/val, labels/train or labels/val", []).extend(places)
        return found

    def unused(self, path: str) -> str:
        if path.startswith("images/"):
            return f"their suffix is none of {', '.join(SUFFIXES)}"
        return "no image has their name" if path.lower().endswith(".png") else "label maps are .png files"

    @cached_property
    def _described(self) -> Described:
        where = self.source.where(DESCRIPTION)
        size = self.source.size(DESCRIPTION)
        if size is None:
            raise DataError(f"{where} is missing", 'a file such as {"classes": [...], "unseen": [...]}')
        if size > MOST:
            raise DataError(f"{where} has {size} bytes", f"at most {MOST}")
        example = 'JSON such as {"classes": ["sky", "car"], "unseen": ["car"]}'
        try:
            return Described.model_validate(parse_json(self.source.read(DESCRIPTION), where))
        except ConfigError as error:
            raise DataError(error.what, example) from None
        except ValidationError as error:
            first = error.errors()[0]
            if strange := [str(one["loc"][0]) for one in error.errors() if one["type"] == "extra_forbidden"]:
                keys = list(Described.model_fields)
                near = {key: difflib.get_close_matches(key, keys, n=1, cutoff=0.0)[0] for key in strange}
                said = ", ".join(f"{key!r} (perhaps {known})" for key, known in near.items())
                raise DataError(f"{where} has the unknown keys {said}", f"only {', '.join(keys)}") from None
            place = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
            raise DataError(f"{where} cannot be read ({place}{first['msg']})", example) from None

    @cached_property
    def _rule(self) -> LabelRule:
        described, number = self._described, len(self._described.classes)
        first, last = described.first_id, described.first_id + number - 1
        if last >= IGNORE:
            raise DataError(f"{self.source.where(DESCRIPTION)} has ids up to {last}", f"at most {IGNORE - 1}")
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[first : last + 1] = range(number)
        table[described.ignore_index] = IGNORE
        known = np.arange(256) <= last  # ids below the first class have no class
        known[[described.ignore_index, IGNORE]] = True
        todo = f'if {last + 1} is not a class, add "ignore_index": {last + 1} to {DESCRIPTION}'
        if not first:
            todo += ', and if the ids start at 1 and 0 is not a class, add "first_id": 1'
        return LabelRule(table, known, f"{first} to {last} (the {number} classes of {DESCRIPTION}) or {IGNORE}", todo)
