"""Published data sets in their released layouts: PASCAL VOC 2012, COCO-Stuff 164k, PASCAL Context (facts.yaml)."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np

from cliptea.config import DataConfig
from cliptea.data.catalogue import IGNORE, Catalogue, make_catalogue
from cliptea.data.facts import LabelFacts, facts
from cliptea.data.labels import Colours, LabelRule, voc_colours
from cliptea.data.reader import Pair, Reader
from cliptea.data.source import Source
from cliptea.errors import DataError

__all__ = ["Published"]

# Another order of the values is certain when its common names occur this often, and twice as often as in the expected
# order.
CERTAIN = 16


class Published(Reader):
    def __init__(self, config: DataConfig) -> None:
        known = self.facts = facts(config.dataset)
        union = known.splits[known.train].union
        super().__init__(
            Source(config.root, known.title, known.roots, known.marks),
            f"{known.images} with {' or '.join(labels.path for labels in known.labels)}",
            f"or set data.train_list={union[0]}" if union else "",
        )
        self._config = config
        self._rules = [self._rule(labels) for labels in known.labels]

    @property
    def catalogue(self) -> Catalogue:
        unseen = self.facts.unseen if self._config.unseen is None else self._config.unseen
        return make_catalogue(self.facts.classes, unseen)

    def find_pairs(self, split: str) -> dict[str, Pair]:
        listed = self._listed(split)
        folder = self.facts.splits[listed].folder
        return {name: self._pair(name, folder) for name in sorted(self._ids(listed))}

    def doubts(self, split: str, found: dict[LabelRule, np.ndarray]) -> list[str]:
        for rule, values in found.items():
            self._check_order(rule, values, split)
        listed = self._listed(split)
        number, accepted = len(self.pairs(split)), self.facts.splits[listed].images
        if number in accepted:
            return []
        return [
            f"{listed} has {number} images, but {self.facts.title} has "
            f"{' or '.join(map(str, accepted))}, so results cannot be compared with published ones"
        ]

    def _listed(self, split: str) -> str:
        return self.facts.train_list(self._config.train_list) if split == "train" else split

    def _ids(self, name: str) -> set[str]:
        """Image ids of a split, from its list, from several lists, or from the label maps in its folder."""
        split = self.facts.splits[name]
        if not split.file:
            return self._ids_of_folder(split.folder)
        if self.source.entry(split.file) is not None:
            try:
                lines = self.source.read(split.file).decode("utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise DataError(f"{self.source.where(split.file)} is not UTF-8", "one id per line, in UTF-8") from None
            # Some lists contain files: "/JPEGImages/ID.jpg /SegmentationClass/ID.png".
            ids = {PurePosixPath(line.split()[0]).stem for line in lines if line.strip()}
            if not ids:
                raise DataError(f"{self.source.where(split.file)} is empty", "one id per line")
            return ids
        if not split.union:
            raise DataError(f"{self.source.where(split.file)} is missing", f"the ids of {name}, one per line")
        try:
            return set().union(*(self._ids(part) for part in split.union))
        except DataError as error:
            raise DataError(
                error.what,
                f"{split.file}, or the lists {' and '.join(split.union)}",
                f"or set data.train_list={split.union[0]} to train without the others",
            ) from None

    def _ids_of_folder(self, folder: str) -> set[str]:
        paths = [PurePosixPath(self._path(labels.path, "{id}", folder)) for labels in self.facts.labels]
        for path in paths:
            pattern = re.escape(path.name).replace(re.escape("{id}"), f"({self.facts.id})")
            matches = (re.fullmatch(pattern, name) for name in self.source.files(str(path.parent)))
            ids = {match[1] for match in matches if match}
            if ids:
                return ids
        looked = " or ".join(self.source.where(str(path)) for path in paths)
        raise DataError(f"{self.facts.title} has no label map for {folder}", f"files such as {looked}")

    def _pair(self, name: str, folder: str) -> Pair:
        found = [self._path(labels.path, name, folder) for labels in self.facts.labels]
        chosen = next((number for number, path in enumerate(found) if self.source.entry(path)), 0)
        return Pair(self._path(self.facts.images, name, folder), found[chosen], self._rules[chosen])

    @staticmethod
    def _path(pattern: str, name: str, folder: str) -> str:
        return pattern.replace("{folder}", folder).replace("{id}", name)

    def _rule(self, labels: LabelFacts) -> LabelRule:
        names = self.facts.names(labels)
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[: len(names)] = self.facts.train_ids(labels)
        known = np.arange(256) < len(names)
        known[IGNORE] = True
        expected = f"0 to {len(names) - 1} or {IGNORE}, as {labels.path.replace('{folder}', '...')} has them"
        return LabelRule(table, known, expected, labels.beyond, names, self._colours)

    @cached_property
    def _colours(self) -> Colours | None:
        codes = (voc_colours() @ np.array([1 << 16, 1 << 8, 1])).tolist()
        expected = "colours of the PASCAL VOC colour map, or one channel of label values"
        return Colours(codes, expected) if self.facts.coloured else None

    def _check_order(self, rule: LabelRule, found: np.ndarray, split: str) -> None:
        """Reject label maps whose values have another known order, because no later check would find this."""
        known = self.facts
        orders = {
            f"released values ({known.values[0]} is 0)": known.values,
            f"values that start at 1 ({known.values[0]} is 1)": ["", *known.values],
            f"train ids ({known.classes[0]} is 0)": known.classes,
            **known.orders,
        }
        hits = {}
        for text, names in orders.items():
            columns = [names.index(name) if name in names else IGNORE for name in known.common]
            hits[text] = int(found[:, columns].sum())
        own = next(text for text, names in orders.items() if names == rule.names)
        likely = max(hits, key=lambda text: hits[text])
        if likely != own and hits[likely] >= max(CERTAIN, 2 * hits[own]):
            example = next(pair.labels for pair in self.pairs(split).values() if pair.rule is rule)
            raise DataError(
                f"label maps such as {self.source.where(example)} seem to hold {likely}",
                f"{own}; this is a guess from {', '.join(known.common)} in {len(found)} maps",
                "convert the maps with the tools of their release",
            )
