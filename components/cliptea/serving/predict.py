"""Masks, overlays and areas of many images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cliptea.config import EvaluationConfig
from cliptea.data.left_out import LeftOut
from cliptea.errors import DataError
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import make_mask, make_sure_mask
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.segment.stream import Loaded, each_image
from cliptea.serving.overlays import confidence_png, mask_png, overlay_jpeg
from cliptea.serving.photos import CONFIDENCE, MASKS, OVERLAYS, Source, read_image
from cliptea.storage.local_files import write_file

__all__ = [
    "UNKNOWN", "UNKNOWN_ID", "Predicted", "Put", "areas_facts", "class_pixels", "far_images", "into", "predict",
    "write_areas",
]  # fmt: skip

AREAS = "areas.json"
UNKNOWN, UNKNOWN_ID = "unknown", 255  # pixels whose confidence is below the threshold

Put = Callable[[str, bytes], None]  # writes a file of the results, by its path in their folder


class Predicted(NamedTuple):
    """The row of an image in areas.json, or why it has none."""

    source: Source
    row: dict[str, Any]
    error: DataError | None


def into(folder: Path) -> Put:
    """Write results into a folder of this machine. Files appear only when they are complete."""
    return lambda path, data: write_file(folder / path, data, durable=False)


def predict(
    model: Segmenter,
    classes: ClassSet,
    sources: Sequence[Source],
    put: Put,
    settings: EvaluationConfig | None = None,
    confidence: bool = False,
    unknown: float | None = None,
) -> Iterator[Predicted]:
    """Write masks/NAME.png and overlays/NAME.jpg for each image, and continue after unreadable images.

    Threads read the images and segment them on the model's devices, see `cliptea.segment.stream`.

    Args:
        put: writes the files. It is called in threads.
        settings: how images are segmented; None: as the model was evaluated.
        confidence: also write confidence/NAME.png, the confidence of each pixel (`make_sure_mask`).
        unknown: pixels with a confidence below it get the id `UNKNOWN_ID`; None: none do.
    """
    number, features = len(classes.names), model.training_features
    directions = classes.text_ND[:0] if features is None else features.directions_KD.to(classes.text_ND.dtype)

    def finish(loaded: Loaded[Source], logits: ImageLogits | None) -> Predicted:
        if loaded.image is None or logits is None:
            assert isinstance(loaded.rest, DataError)
            return Predicted(loaded.item, {}, loaded.rest)
        own, sure_HW = logits.of(range(number)), None
        if confidence or unknown is not None:
            mask_HW, sure_HW = make_sure_mask(own, classes.gamma_N)
            mask_HW = mask_HW if unknown is None else np.where(sure_HW < unknown, np.uint8(UNKNOWN_ID), mask_HW)
        else:
            mask_HW = make_mask(own, classes.gamma_N)
        row = _write(loaded.item, loaded.image, mask_HW, classes.names, put)
        if confidence and sure_HW is not None:
            row["confidence"] = f"{CONFIDENCE}/{loaded.item.name}.png"
            put(row["confidence"], confidence_png(sure_HW))
        if features is not None:
            row["distance"] = features.distance(logits.of(range(number, number + len(directions))))
        return Predicted(loaded.item, row, None)

    chosen = settings or model.description.evaluation
    rows_ND, devices = torch.cat([classes.text_ND, directions]), model.devices
    return each_image(model.student, rows_ND, chosen, sources, _read, finish, lambda one: str(one.path), devices)


def _write(source: Source, image: np.ndarray, mask: np.ndarray, names: Sequence[str], put: Put) -> dict[str, Any]:
    """The row of the image in areas.json."""
    by_id = dict(enumerate(names)) | {UNKNOWN_ID: UNKNOWN}
    counts = class_pixels(mask)
    put(f"{OVERLAYS}/{source.name}.jpg", overlay_jpeg(image, mask, by_id, list(counts)))
    put(f"{MASKS}/{source.name}.png", mask_png(mask))
    facts = {"image": str(source.path), "mask": f"{MASKS}/{source.name}.png"}
    areas = {by_id[index]: {"pixels": pixels, "share": float(pixels / mask.size)} for index, pixels in counts.items()}
    return facts | {"height": len(mask), "width": mask.shape[1], "areas": areas}


def class_pixels(mask_HW: np.ndarray) -> dict[int, int]:
    """The number of pixels of each id in the mask, with the largest first."""
    counts = np.bincount(mask_HW.ravel()).tolist()
    return {index: counts[index] for index in sorted(range(len(counts)), key=lambda one: -counts[one]) if counts[index]}


def far_images(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of images that lie beyond the limit of training images, with the farthest first."""
    return sorted((row for row in rows if row.get("distance", 0.0) > 1), key=lambda row: -row["distance"])


def areas_facts(
    model: str,
    classes: ClassSet,
    rows: list[dict[str, Any]],
    errors: list[str],
    left_out: Mapping[str, LeftOut],
    unknown: float | None,
) -> dict[str, Any]:
    """The content of areas.json.

    Args:
        model: its address.
        classes: in the order of the ids in masks.
        rows: one for each image.
        errors: why other images could not be read.
        left_out: what else is in the folders, by the reason.
        unknown: the threshold of `predict`.
    """
    facts = {"model": model, "classes": classes.names, "gamma": classes.gamma_N.tolist()}
    left = {why: one.model_dump() for why, one in left_out.items()}
    threshold = {} if unknown is None else {"unknown": unknown}
    return {**facts, **threshold, "images": rows, "errors": errors, "left_out": left}


def write_areas(put: Put, facts: dict[str, Any]) -> None:
    """Write areas.json."""
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    put(AREAS, text.encode(errors="backslashreplace"))  # as JSON escapes the bytes of names that are not UTF-8


def _read(source: Source) -> Loaded[Source]:
    try:
        return Loaded(source, read_image(source.path))
    except DataError as error:
        return Loaded(source, None, error)
