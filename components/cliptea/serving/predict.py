"""Masks, overlays and areas of many images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cliptea.config import EvaluationConfig
from cliptea.errors import DataError
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import make_mask
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.segment.stream import Loaded, each_image
from cliptea.serving.overlays import mask_png, overlay_jpeg
from cliptea.serving.photos import Source, read_image
from cliptea.storage.local_files import write_file

__all__ = ["Predicted", "areas", "areas_facts", "predict", "write_areas"]

MASKS, OVERLAYS, AREAS = "masks", "overlays", "areas.json"


class Predicted(NamedTuple):
    """The row of an image in areas.json, or why it has none."""

    source: Source
    row: dict[str, Any]
    error: DataError | None


def predict(
    model: Segmenter,
    classes: ClassSet,
    sources: Sequence[Source],
    output: Path,
    settings: EvaluationConfig | None = None,
) -> Iterator[Predicted]:
    """Write masks/NAME.png and overlays/NAME.jpg below `output` for each image, and continue after unreadable images.

    Threads read the images and segment them on the model's devices, see `cliptea.segment.stream`. Files appear only
    when they are complete.

    Args:
        settings: how images are segmented; None: as the model was evaluated.
    """

    def finish(loaded: Loaded[Source], logits: ImageLogits | None) -> Predicted:
        if loaded.image is None or logits is None:
            assert isinstance(loaded.rest, DataError)
            return Predicted(loaded.item, {}, loaded.rest)
        mask = make_mask(logits, classes.gamma_N)
        return Predicted(loaded.item, _write(loaded.item, loaded.image, mask, classes, output), None)

    chosen = settings or model.description.evaluation
    return each_image(
        model.student, classes.text_ND, chosen, sources, _read, finish, lambda one: str(one.path), model.devices
    )


def _write(source: Source, image: np.ndarray, mask: np.ndarray, classes: ClassSet, output: Path) -> dict[str, Any]:
    """The row of the image in areas.json."""
    found = areas(mask, classes.names)
    shown = [classes.names.index(name) for name in found]
    overlay = overlay_jpeg(image, mask, classes.names, shown)
    write_file(output / OVERLAYS / f"{source.name}.jpg", overlay, durable=False)
    write_file(output / MASKS / f"{source.name}.png", mask_png(mask), durable=False)
    facts = {"image": str(source.path), "mask": f"{MASKS}/{source.name}.png"}
    return facts | {"height": len(mask), "width": mask.shape[1], "areas": found}


def areas(mask_HW: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Pixels and share (0-1) of each class in the mask, with the largest first."""
    counts = np.bincount(mask_HW.ravel(), minlength=len(names))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda index: -counts[index])
    return {
        names[index]: {"pixels": int(counts[index]), "share": float(counts[index] / mask_HW.size)} for index in order
    }


def areas_facts(model: str, classes: ClassSet, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of areas.json: model, classes in the order of mask ids, gammas, and a row per image."""
    return {"model": model, "classes": classes.names, "gamma": classes.gamma_N.tolist(), "images": rows}


def write_areas(output: Path, facts: dict[str, Any]) -> None:
    """Write areas.json below `output`."""
    write_file(output / AREAS, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _read(source: Source) -> Loaded[Source]:
    try:
        return Loaded(source, read_image(source.path))
    except DataError as error:
        return Loaded(source, None, error)
