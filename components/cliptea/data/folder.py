"""A plain folder: images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png, classes.json.

classes.json holds `classes` (names in the order of the label ids), `unseen` (names) and, where they differ from
the defaults, `first_id` (the label id of the first class, 0) and `ignore_index` (the id of no class, 255).
"""

from __future__ import annotations

from functools import cached_property
from posixpath import splitext

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from cliptea.config import DataConfig
from cliptea.data.catalogue import IGNORE, Catalogue, make_catalogue
from cliptea.data.labels import LabelRule
from cliptea.data.reader import Pair, Reader
from cliptea.data.source import Source
from cliptea.errors import DataError

__all__ = ["Folder"]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
DESCRIPTION = "classes.json"


class Described(BaseModel):
    """classes.json."""

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
        return make_catalogue(self._described.classes, unseen)

    def find_pairs(self, split: str) -> dict[str, Pair]:
        folder = f"images/{split}"
        parts = [splitext(file) for file in self.source.files(folder)]
        parts = [(name, suffix) for name, suffix in parts if suffix.lower() in IMAGE_SUFFIXES]
        if not parts:
            raise DataError(
                f"{self.source.where(folder)} contains no images", "files such as NAME.jpg, with labels in labels/"
            )
        images = {name: f"{folder}/{name}{suffix}" for name, suffix in parts}
        if len(images) < len(parts):
            raise DataError(
                f"two images in {self.source.where(folder)} share a name", "each NAME once, with a single suffix"
            )
        return {name: Pair(images[name], f"labels/{split}/{name}.png", self._rule) for name in sorted(images)}

    @cached_property
    def _described(self) -> Described:
        where = self.source.where(DESCRIPTION)
        if not self.source.has(DESCRIPTION):
            raise DataError(f"{where} is missing", 'a file such as {"classes": [...], "unseen": [...]}')
        try:
            return Described.model_validate_json(self.source.read(DESCRIPTION))
        except ValidationError as error:
            first = error.errors()[0]
            place = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
            raise DataError(
                f"{where} cannot be read ({place}{first['msg']})", 'JSON such as {"classes": ["sky"], "unseen": []}'
            ) from None

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
