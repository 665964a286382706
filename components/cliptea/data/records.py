"""Records of shards, which contain an image with its label map, or the array of a view."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cliptea.config import TeacherConfig
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.views import choose_view, cut_image, cut_labels
from cliptea.names import as_known

__all__ = [
    "LABEL",
    "REGION_TOKENS",
    "ViewImage",
    "chosen_images",
    "read_array",
    "read_image",
    "read_pair",
    "read_view",
    "record_name",
]

LABEL = "label.png"  # extension of the label map in a record of a split
REGION_TOKENS = "tokens.npy"  # extension of the embeddings of regions in the record of a region map


class ViewImage(NamedTuple):
    """One view for both networks: image (C, C, 3) uint8, labels (C, C) uint8 and valid pixels (C, C) bool."""

    image: np.ndarray
    labels: np.ndarray
    valid: np.ndarray


def record_name(name: str, number: int) -> str:
    """The name of the record for view `number` of an image."""
    return f"{name}.v{number}"


def chosen_images(names: Sequence[str], figures: int | list[str]) -> list[str]:
    """The names of images for figures: the first ones, or the ones in the setting."""
    if isinstance(figures, int):
        return list(names[:figures])
    wanted = set(as_known(figures, names))
    return [name for name in names if name in wanted]


def read_image(reader: ShardReader, name: str) -> np.ndarray:
    """Read only the image (H, W, 3) uint8 of a record of a split."""
    members = reader.members(name)
    return decode_image(next(data for member, data in members.items() if member != LABEL), name)


def read_pair(reader: ShardReader, record: str | int) -> tuple[np.ndarray, np.ndarray]:
    """Read the image (H, W, 3) uint8 and the label map (H, W) uint8 of a record of a split, by its name or number."""
    name = record if isinstance(record, str) else reader.name(record)
    members = reader.members(record)
    labels = decode_labels(members.pop(LABEL), name)
    return decode_image(next(iter(members.values())), name), labels


def read_view(reader: ShardReader, image_record: str | int, number: int, config: TeacherConfig, seed: int) -> ViewImage:
    """Read view `number` of an image in the train shards. The image is given by its name or number."""
    name = image_record if isinstance(image_record, str) else reader.name(image_record)
    image, labels = read_pair(reader, image_record)
    view = choose_view(labels, name, number, config, seed)
    return ViewImage(cut_image(image, view), cut_labels(labels, view), view.valid)


def read_array(reader: ShardReader, record: str | int, extension: str = "npy") -> np.ndarray:
    """Read an array of a record of tokens or region maps. View v of image i is record i * `teacher.views` + v."""
    return np.load(io.BytesIO(reader.read(record, extension)), allow_pickle=False)
