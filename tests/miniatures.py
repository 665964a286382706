"""Miniature copies of the published data sets in their true layouts: names, folders, PNG modes, palettes, values.

Each writer returns the raw label values that it drew, by split and image id, so that a test can map them with a
table of its own. A class is a colour; a scene is a patchwork in which the values take turns, so that each of
them occurs in every split where the patches suffice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["COCO_ABSENT", "coco_stuff164k", "folder", "pascal_context", "train_ids", "voc12", "write_mask"]

Labels = dict[str, dict[str, np.ndarray]]  # split -> image id -> (H, W) uint8 raw values

VOID = 255
# Values that no released COCO-Stuff map holds: street sign, hat, shoe, eye glasses, plate, mirror, window, desk,
# door, blender and hair brush.
COCO_ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
COCO_VALUES = tuple(value for value in range(182) if value not in COCO_ABSENT)
PATCH = 8  # pixels


def voc12(root: Path, seed: int = 0, images: int = 4, aug_has_all: bool = False, trainaug: bool = True) -> Labels:
    """VOCdevkit/VOC2012 below `root`, with the splits train, aug and val of `images` images each.

    Args:
        root: folder to write to.
        seed: of everything drawn.
        images: in each split.
        aug_has_all: whether SegmentationClassAug holds the masks of VOC too, and SegmentationClass is not there.
        trainaug: whether there is a list trainaug.txt.
    """
    home, draw = root / "VOCdevkit/VOC2012", _scenes(seed, range(21))
    names = {
        "train": [f"2007_{number:06d}" for number in range(1, images + 1)],
        "aug": [f"2008_{number:06d}" for number in range(1, images + 1)],
        "val": [f"2009_{number:06d}" for number in range(1, images + 1)],
    }
    drawn = {split: dict(zip(ids, draw, strict=False)) for split, ids in names.items()}
    for split, scenes in drawn.items():
        for name, (image, labels) in scenes.items():
            if split != "aug":
                labels[:, -2:] = VOID  # the border of objects; SBD has none
            _write_image(home / f"JPEGImages/{name}.jpg", image)
            masks = "SegmentationClassAug" if split == "aug" or aug_has_all else "SegmentationClass"
            write_mask(home / f"{masks}/{name}.png", labels, palette=True)
    lists = names | ({"trainaug": names["train"] + names["aug"]} if trainaug else {})
    _write_lists(home / "ImageSets/Segmentation", lists)
    return _labels(drawn)


def coco_stuff164k(root: Path, seed: int = 0, images: int = 5, converted: bool = False) -> Labels:
    """images/ and stuffthingmaps/ below `root`; `converted`: annotations/, raw maps with their _labelTrainIds.png."""
    draw, drawn = _scenes(seed, COCO_VALUES, side=96), {}
    table = train_ids(COCO_VALUES)
    for split, first in (("train", 9), ("val", 139)):
        drawn[split] = {f"{first + 16 * number:012d}": next(draw) for number in range(images)}
        for name, (image, labels) in drawn[split].items():
            labels[:, -2:] = VOID
            _write_image(root / f"images/{split}2017/{name}.jpg", image)
            if converted:
                write_mask(root / f"annotations/{split}2017/{name}.png", labels)
                write_mask(root / f"annotations/{split}2017/{name}_labelTrainIds.png", table[labels])
            else:
                write_mask(root / f"stuffthingmaps/{split}2017/{name}.png", labels)
    return _labels(drawn)


def pascal_context(root: Path, seed: int = 0, images: int = 4) -> Labels:
    """VOCdevkit/VOC2010 below `root`, with the maps of 0 to 59 that MMSegmentation's converter writes."""
    home, draw = root / "VOCdevkit/VOC2010", _scenes(seed, range(60))
    drawn = {
        split: {f"2008_{first + number:06d}": next(draw) for number in range(images)}
        for split, first in (("train", 2), ("val", 1002))
    }
    for scenes in drawn.values():
        for name, (image, labels) in scenes.items():
            _write_image(home / f"JPEGImages/{name}.jpg", image)
            write_mask(home / f"SegmentationClassContext/{name}.png", labels)
    _write_lists(home / "ImageSets/SegmentationContext", {split: list(scenes) for split, scenes in drawn.items()})
    return _labels(drawn)


def folder(
    root: Path,
    classes: Sequence[str] = ("sky", "road", "tree", "car"),
    unseen: Sequence[str] = ("car",),
    seed: int = 0,
    images: int = 4,
    **described: int,
) -> Labels:
    """A plain folder; `described`, such as first_id, goes into classes.json and moves the label values."""
    first = described.get("first_id", 0)
    draw = _scenes(seed, range(first, first + len(classes)))
    drawn = {split: {f"{split}{number}": next(draw) for number in range(images)} for split in ("train", "val")}
    for split, scenes in drawn.items():
        for name, (image, labels) in scenes.items():
            labels[:, -2:] = described.get("ignore", VOID)
            _write_image(root / f"images/{split}/{name}.jpg", image)
            write_mask(root / f"labels/{split}/{name}.png", labels)
    description = {"classes": list(classes), "unseen": list(unseen), **described}
    (root / "classes.json").write_text(json.dumps(description))
    return _labels(drawn)


def train_ids(values: Sequence[int]) -> np.ndarray:
    """(256,) uint8 table that numbers the raw values of the classes from 0, all others 255."""
    table = np.full(256, VOID, dtype=np.uint8)
    table[list(values)] = range(len(values))
    return table


def write_mask(path: Path, labels: np.ndarray, palette: bool = False, mode: str | None = None) -> None:
    """Write (H, W) labels as a PNG, grey or with VOC's palette, converted to another Pillow mode if one is named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([channel for index in range(256) for channel in _voc_colour(index)])
    (image.convert(mode) if mode else image).save(path)


def _voc_colour(index: int) -> list[int]:
    """Each third bit of the index, the lowest first, makes the highest bits of a channel."""
    bits = f"{index:09b}"[::-1]
    return [int(bits[channel::3].ljust(8, "0"), 2) for channel in range(3)]


def _scenes(seed: int, values: Sequence[int], side: int = 72) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless scenes: (H, W, 3) uint8 images and (H, W) uint8 labels, at least `side` - 24 and at most `side` wide."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(30, 225, (256, 3))
    turns = itertools.chain.from_iterable(rng.permutation(np.array(values)) for _ in itertools.count())
    while True:
        height, width = (int(edge) for edge in rng.integers(side - 24, side + 1, 2))
        rows, columns = -(-height // PATCH), -(-width // PATCH)
        patches = np.array([next(turns) for _ in range(rows * columns)], dtype=np.uint8).reshape(rows, columns)
        labels = patches.repeat(PATCH, 0).repeat(PATCH, 1)[:height, :width].copy()
        image = colours[labels] + rng.normal(0, 12, (height, width, 3))
        yield image.clip(0, 255).astype(np.uint8), labels


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def _write_lists(folder: Path, lists: dict[str, list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{image}\n" for image in ids))


def _labels(drawn: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]) -> Labels:
    return {split: {name: labels for name, (_, labels) in scenes.items()} for split, scenes in drawn.items()}
