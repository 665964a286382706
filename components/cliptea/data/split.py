"""The split step: raw data -> train and val shards with labels as train ids.

In the train shards every unseen label has been replaced by 255, so that no later code can leak it (inductive
setting, arXiv 2310.02296 section 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cliptea import progress
from cliptea.data.catalogue import IGNORE, Catalogue
from cliptea.data.datasets import open_dataset
from cliptea.data.sample import encode_labels
from cliptea.data.shards import ShardWriter
from cliptea.manifest import Manifest, find, fingerprint, publish
from cliptea.storage import open_store

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["build_split", "hide_unseen"]

VERSION = 1
LABEL = "label.png"


def hide_unseen(labels: np.ndarray, catalogue: Catalogue) -> np.ndarray:
    """(H, W) uint8 train ids with every unseen one replaced by 255."""
    table = np.arange(256, dtype=np.uint8)
    table[catalogue.unseen_ids] = IGNORE
    return table[labels]


def build_split(run: Run) -> dict[str, Any]:
    """Write the shards of both splits; returns the manifest, whose info counts images and pixels of each class."""
    store, config = open_store(), run.config.data
    dataset = open_dataset(config)
    catalogue = dataset.catalogue
    fp = fingerprint("split", VERSION, catalogue=catalogue, data=run.data_digest, mib=config.shard_mib)
    done = find(store, "split", fp)
    if done is not None:
        progress.reused()
        return done.model_dump()

    names = {split: dataset.ids(split) for split in ("train", "val")}
    objects, counts = {}, {}
    with progress.bar("splitting", total=sum(map(len, names.values())), unit="image") as bar:
        for split, ids in names.items():
            writer = ShardWriter(store, f"split/{fp}/{split}", config.shard_mib << 20)
            pixels = np.zeros(256, dtype=np.int64)
            images = np.zeros(256, dtype=np.int64)
            for name in ids:
                sample = dataset.read(split, name)
                labels = hide_unseen(sample.labels, catalogue) if split == "train" else sample.labels
                writer.add(name, {sample.extension: sample.image, LABEL: encode_labels(labels)})
                found = np.bincount(labels.ravel(), minlength=256)
                pixels += found
                images += found > 0
                bar.update(1)
            objects |= writer.close()
            counts[split] = {
                "images": len(ids),
                "unlabelled_pixels": int(pixels[IGNORE]),
                "classes": {
                    name: {"pixels": int(pixels[index]), "images": int(images[index])}
                    for index, name in enumerate(catalogue.classes)
                },
            }
    problems = _problems(catalogue, counts)
    for problem in problems:
        progress.warn(problem)
    info = {"catalogue": catalogue.model_dump(), "counts": counts, "problems": problems}
    return publish(store, Manifest(kind="split", fingerprint=fp, objects=objects, info=info)).model_dump()


def _problems(catalogue: Catalogue, counts: dict[str, Any]) -> list[str]:
    seen = [name for name in catalogue.classes if name not in catalogue.unseen]
    absent = {
        "train": [name for name in seen if not counts["train"]["classes"][name]["pixels"]],
        "val": [name for name in catalogue.classes if not counts["val"]["classes"][name]["pixels"]],
    }
    return [f"no {split} image shows {', '.join(names)}" for split, names in absent.items() if names]
