"""The split step: raw data -> train and val shards with labels as train ids.

In the train shards every unseen label has been replaced by 255, so that no later code can leak it (inductive
setting, arXiv 2310.02296 section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from cliptea import progress
from cliptea.config import DataConfig
from cliptea.data.ahead import ahead
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.datasets import Dataset, open_dataset
from cliptea.data.sample import encode_labels
from cliptea.data.shards import ShardWriter
from cliptea.manifest import Manifest, find, fingerprint, publish
from cliptea.storage import Store, open_store

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["LABEL", "Splits", "build_splits", "hide_unseen", "split_fingerprint", "write_split"]

VERSION = 2
KIND = "split"
LABEL = "label.png"


def hide_unseen(labels: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """(H, W) uint8 train ids with every unseen one replaced by 255."""
    table = np.arange(256, dtype=np.uint8)
    table[catalogue.unseen_ids] = IGNORE
    return table[labels]


class Splits(BaseModel):
    """What the split step hands on."""

    own: Manifest  # train and val shards of the data set that is trained on
    others: dict[str, Manifest] = {}  # val shards of further evaluation sets, by name


def build_splits(run: Run) -> dict[str, Any]:
    """Write the shards of the run's data set and of its further evaluation sets; returns a dumped `Splits`."""
    store, config = open_store(), run.config
    wanted: list[tuple[DataConfig, str, Sequence[str]]] = [(config.data, run.data_digest, ("train", "val"))]
    for name, further in config.evaluation.sets.items():
        wanted.append((further.data(name, config.data), run.evaluation_digests[name], ("val",)))
    fps = [split_fingerprint(data, digest, parts) for data, digest, parts in wanted]
    found = [find(store, KIND, fp) for fp in fps]
    if None not in found:
        progress.reused()
    own, *others = [
        done or write_split(store, data, fp, parts)
        for done, fp, (data, _, parts) in zip(found, fps, wanted, strict=True)
    ]
    return Splits(own=own, others=dict(zip(config.evaluation.sets, others, strict=True))).model_dump()


def split_fingerprint(config: DataConfig, digest: str, parts: Sequence[str]) -> str:
    """Over the raw data, the class list, the parts wanted and the size of shards."""
    catalogue = open_dataset(config).catalogue
    return fingerprint(KIND, VERSION, catalogue=catalogue, data=digest, parts=parts, mib=config.shard_mib)


def write_split(store: Store, config: DataConfig, fp: str, parts: Sequence[str]) -> Manifest:
    """Write the shards of "train", "val" or both; the manifest's info counts images and pixels of each class."""
    dataset = open_dataset(config)
    catalogue = dataset.catalogue
    warnings = [warning for part in parts for warning in dataset.check(part)]
    names = {part: dataset.ids(part) for part in parts}
    objects, counts = {}, {}
    with progress.bar(f"splitting {config.dataset}", total=sum(map(len, names.values())), unit="image") as bar:
        for part, ids in names.items():
            writer = ShardWriter(store, f"{KIND}/{fp}/{part}", config.shard_mib << 20)
            pixels = np.zeros(256, dtype=np.int64)
            images = np.zeros(256, dtype=np.int64)
            records = ahead(partial(_record, dataset, part, catalogue), ids)
            for name, (members, found) in zip(ids, records, strict=True):
                writer.add(name, members)
                pixels += found
                images += found > 0
                bar.update(1)
            objects |= writer.close()
            counts[part] = {
                "images": len(ids),
                "unlabelled_pixels": int(pixels[IGNORE]),
                "classes": {
                    name: {"pixels": int(pixels[index]), "images": int(images[index])}
                    for index, name in enumerate(catalogue.classes)
                },
            }
    problems = warnings + _problems(catalogue, counts)
    for problem in problems:
        progress.warn(problem)
    info = {"catalogue": catalogue.model_dump(), "counts": counts, "problems": problems}
    return publish(store, Manifest(kind=KIND, fingerprint=fp, objects=objects, info=info))


def _record(dataset: Dataset, part: str, catalogue: Catalogue, name: str) -> tuple[dict[str, bytes], np.ndarray]:
    """The members of one image's record, and (256,) the number of pixels of each label in it."""
    sample = dataset.read(part, name)
    labels = hide_unseen(sample.labels, catalogue) if part == "train" else sample.labels
    members = {sample.extension: sample.image, LABEL: encode_labels(labels)}
    return members, np.bincount(labels.ravel(), minlength=256)


def _problems(catalogue: Catalogue, counts: dict[str, Any]) -> list[str]:
    wanted = {"train": [name for name in catalogue.classes if name not in catalogue.unseen], "val": catalogue.classes}
    absent = {
        part: [name for name in wanted[part] if not found["classes"][name]["pixels"]] for part, found in counts.items()
    }
    return [f"no {part} image shows {', '.join(names)}" for part, names in absent.items() if names]
