"""A plain folder: images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png, classes.json.

classes.json holds `classes` (names in the order of the label ids), `unseen` (names) and, if it is not 255,
`ignore_index`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from cliptea.config import DataConfig
from cliptea.data.catalogue import IGNORE, Catalogue, make_catalogue
from cliptea.data.sample import Sample, decode_image, decode_labels
from cliptea.errors import DataError

__all__ = ["Folder"]

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class Folder:
    def __init__(self, config: DataConfig) -> None:
        if config.root is None:
            raise DataError("data.root is not set", "the folder of the data set", "add --set data.root=FOLDER")
        self.root = Path(config.root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"data.root={config.root} is no folder", "images/, labels/ and classes.json in it")
        self._unseen = config.unseen

    @cached_property
    def _described(self) -> dict:
        path = self.root / "classes.json"
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
            names = described["classes"]
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError
        except FileNotFoundError:
            raise DataError(f"{path} is missing", 'a file such as {"classes": [...], "unseen": [...]}') from None
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path} cannot be read", 'JSON such as {"classes": ["sky"], "unseen": []}') from None
        return described

    @property
    def catalogue(self) -> Catalogue:
        unseen = self._described.get("unseen", []) if self._unseen is None else self._unseen
        return make_catalogue(self._described["classes"], unseen)

    def ids(self, split: str) -> list[str]:
        return sorted(self._images(split))

    def _images(self, split: str) -> dict[str, Path]:
        folder = self.root / "images" / split
        paths = [path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
        if not paths:
            raise DataError(f"there is no image in {folder}", "files such as NAME.jpg, with labels in labels/")
        images = {path.stem: path for path in paths}
        if len(images) < len(paths):
            raise DataError(f"two images in {folder} share a name", "NAME once, with one suffix")
        return images

    @cached_property
    def _paths(self) -> dict[str, dict[str, Path]]:
        return {split: self._images(split) for split in ("train", "val")}

    def read(self, split: str, name: str) -> Sample:
        image_path = self._paths[split][name]
        label_path = self.root / "labels" / split / f"{name}.png"
        if not label_path.is_file():
            raise DataError(f"{label_path} is missing", f"a label map for {image_path}")
        data = image_path.read_bytes()
        image = decode_image(data, str(image_path))
        labels = decode_labels(label_path.read_bytes(), str(label_path))
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{label_path} is {labels.shape[1]}x{labels.shape[0]} and its image "
                f"{image.shape[1]}x{image.shape[0]} pixels",
                "equal sizes",
            )
        labels = labels.copy()
        labels[labels == self._described.get("ignore_index", IGNORE)] = IGNORE
        number = len(self.catalogue.classes)
        strange = [int(value) for value in np.unique(labels) if number <= value < IGNORE]
        if strange:
            raise DataError(
                f"{label_path} holds the label ids {', '.join(map(str, strange))}",
                f"0 to {number - 1} (the {number} classes of classes.json) or {IGNORE}",
            )
        return Sample(data, image_path.suffix.lower().lstrip("."), labels)

    def digest(self) -> str:
        """sha256 over the relative path, size and time of change of every file."""
        digest = hashlib.sha256()
        for path in sorted(self.root.rglob("*")):
            if path.is_file():
                stat = path.stat()
                digest.update(
                    f"{path.relative_to(self.root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode()
                )
        return digest.hexdigest()
