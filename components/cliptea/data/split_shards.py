"""Raw data -> train and val shards with labels as train ids.

In the train shards every unseen label has been replaced by 255, so that no later code can leak it (inductive
setting, arXiv 2310.02296 section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cliptea import progress
from cliptea.config import DataConfig
from cliptea.data.ahead import ahead
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.datasets import Dataset, open_dataset
from cliptea.data.left_out import LeftOut, count, left_out_lines
from cliptea.data.part_counts import PartCounts
from cliptea.data.records import LABEL
from cliptea.data.sample import decode_labels, encode_png, is_turned, require_labels
from cliptea.data.shard_sets import ShardEntry, put_top_index
from cliptea.data.shard_writer import ShardWriter, found_shards
from cliptea.errors import DataError
from cliptea.manifest import Contents
from cliptea.messages import number_of
from cliptea.storage import Store

__all__ = ["NOTHING_SEEN", "hide_unseen", "with_left_out", "write_split"]

SHOWN = 5  # names in a line
NOTHING_SEEN = (
    "no train image shows a seen class, so there is nothing to learn from", "seen classes in the label maps of train"
)  # fmt: skip
CHECK = "`cliptea data check` shows examples"


class Record(NamedTuple):
    """The record of an image."""

    members: dict[str, bytes]
    pixels: np.ndarray  # (256,) int64, of each train id
    turned: bool


def hide_unseen(labels: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """(H, W) uint8 train ids with every unseen one replaced by 255."""
    table = np.arange(256, dtype=np.uint8)
    table[catalogue.unseen_ids] = IGNORE
    return table[labels]


def write_split(store: Store, config: DataConfig, prefix: str, parts: Sequence[str]) -> Contents:
    """Write the shards of a data set, and count images and pixels of each class.

    Complete shards of a killed run are reused. Memory: three times `data.shard_mib` and 17 samples.

    Args:
        config: the data set and the size of shards.
        parts: "train", "val" or both.
    """
    dataset = open_dataset(config)
    catalogue = dataset.catalogue
    warnings = [warning for part in parts for warning in dataset.check(part)]
    names = {part: dataset.ids(part) for part in parts}
    left_out = count(dataset.left_out(parts))
    objects, facts = {}, {}
    bad: dict[str, dict[str, str]] = {part: {} for part in parts}  # why an image is left out, by its name
    with progress.bar(f"splitting {config.name}", total=sum(map(len, names.values())), unit="image") as bar:
        for part, ids in names.items():
            folder, found = f"{prefix}/{part}", PartCounts()
            read = partial(_record, dataset, part, catalogue)
            left = _take_over(store, folder, ids, found, bad[part], read, catalogue.seen_ids)
            done = sum(entry.records for entry in left) + len(bad[part])
            bar.update(done)
            writer = ShardWriter(store, folder, config.shard_mib << 20, left)
            for name, record in zip(ids[done:], ahead(read, ids[done:]), strict=True):
                if isinstance(record, DataError):
                    bad[part][name] = str(record)
                    _require_few(sum(map(len, bad.values())), config.max_bad, record)
                else:
                    writer.add(name, record.members)
                    found.add_image(name, record.pixels, record.turned, catalogue.seen_ids)
                bar.update(1)
            objects |= put_top_index(store, folder, writer.close())
            if not found.images:
                raise DataError(f"no {part} image of {config.name} can be used", "at least one", CHECK)
            facts[part] = {"images": found.images, "turned_images": len(found.turned), **_by_class(found, catalogue)}
            if bad[part]:
                reasons = _first([f"{name} ({why})" for name, why in bad[part].items()])
                warnings.append(
                    f"the run leaves out {number_of(len(bad[part]), f'{part} image')} that cannot be used, as "
                    f"data.max_bad={config.max_bad} allows: {reasons}"
                )
            if found.turned:
                warnings.append(
                    f"the EXIF orientation turns {number_of(len(found.turned), f'{part} image')} upright, and label "
                    f"maps that were drawn on the raw pixels do not fit: {_first(found.turned)}"
                )
            if part == "train" and len(found.without) == found.images:
                raise DataError(*NOTHING_SEEN)
            if found.without and part == "train":
                warnings.append(
                    f"no seen class is in {len(found.without)} of {number_of(found.images, 'train image')}, so "
                    f"training has no labels for these: {_first(found.without)}"
                )
    problems = warnings + _problems(catalogue, facts)
    info = {"catalogue": catalogue.model_dump(), "counts": facts, "bad_images": bad, "problems": problems}
    return Contents(objects, with_left_out(info, left_out))


def with_left_out(info: Mapping[str, Any], found: Mapping[str, LeftOut]) -> dict[str, Any]:
    """The facts about shards with what is left out now, in place of what was left out when they were written."""
    earlier = {why: LeftOut.model_validate(one) for why, one in info.get("left_out", {}).items()}
    old, new = (left_out_lines(one, " of the data") for one in (earlier, found))
    problems = [problem for problem in info["problems"] if problem not in old] + new
    return {**info, "left_out": {why: one.model_dump() for why, one in found.items()}, "problems": problems}


def _by_class(found: PartCounts, catalogue: Catalogue) -> dict[str, Any]:
    pixels, images = found.pixels.tolist(), found.shown_in.tolist()
    return {
        "unlabelled_pixels": pixels[IGNORE],
        "classes": {
            name: {"pixels": pixels[index], "images": images[index]} for index, name in enumerate(catalogue.classes)
        },
    }


def _first(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _take_over(
    store: Store,
    prefix: str,
    ids: Sequence[str],
    found: PartCounts,
    bad: dict[str, str],
    read: Callable[[str], Record | DataError],
    seen_ids: Sequence[int],
) -> list[ShardEntry]:
    """Complete shards with the first of the `ids`, except for those that still cannot be used.

    What they show is added to `found`, and what cannot be used to `bad`.
    """
    entries: list[ShardEntry] = []
    done = 0
    for shard in found_shards(store, prefix):
        names = {*shard.index.names}
        number = len(names) and next((n for n, one in enumerate(ids[done:], 1) if one == shard.index.names[-1]), 0)
        here = ids[done : done + number]
        skipped = {name: read(name) for name in here if name not in names}
        if [name for name in here if name in names] != shard.index.names or any(
            isinstance(record, Record) for record in skipped.values()
        ):
            break
        for place, name in enumerate(shard.index.names):
            (image,) = (extension for extension in shard.index.places(place) if extension != LABEL)
            pixels = _pixels(decode_labels(shard.content(place, LABEL), name))
            found.add_image(name, pixels, is_turned(shard.content(place, image)), seen_ids)
        bad |= {name: str(error) for name, error in skipped.items()}
        entries.append(shard.entry)
        done += number
    return entries


def _record(dataset: Dataset, part: str, catalogue: Catalogue, name: str) -> Record | DataError:
    """The record of an image, or why the image cannot be used."""
    try:
        sample = dataset.read(part, name)
        require_labels(sample, name)
    except DataError as error:
        return error
    labels = hide_unseen(sample.labels, catalogue) if part == "train" else sample.labels
    pixels = _pixels(labels)
    if (strange := np.flatnonzero(pixels[len(catalogue.classes) : IGNORE])).size:
        return DataError(
            f"the data set gives the train id {len(catalogue.classes) + strange[0]} for {part} image {name}",
            f"positions in its list of {len(catalogue.classes)} classes, or {IGNORE}",
        )
    return Record({sample.extension: sample.image, LABEL: encode_png(labels)}, pixels, sample.turned)


def _require_few(number: int, most: int, error: DataError) -> None:
    """Raise the error if it is one too many."""
    if number > most:
        if not most:
            raise error
        raise DataError(
            f"{number} images cannot be used (data.max_bad={most}), the last one because {error.what}",
            error.expected,
            CHECK,
        )


def _pixels(labels: np.ndarray) -> np.ndarray:
    """(256,) int64 number of pixels of each train id."""
    return np.bincount(labels.ravel(), minlength=256)


def _problems(catalogue: Catalogue, counts: dict[str, Any]) -> list[str]:
    wanted = {"train": catalogue.seen, "val": catalogue.classes}
    absent = {
        part: [name for name in wanted[part] if not found["classes"][name]["pixels"]] for part, found in counts.items()
    }
    return [f"no {part} image shows {', '.join(names)}" for part, names in absent.items() if names]
