"""Masks, overlays and areas of many images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cliptea.data.ahead import ahead
from cliptea.errors import DataError
from cliptea.serving.files import write_whole
from cliptea.serving.images import Source, read_image
from cliptea.serving.pictures import mask_png, overlay_jpeg
from cliptea.serving.segmenter import ClassSet, Segmenter

__all__ = ["Predicted", "areas", "predict", "write_areas"]

MASKS, OVERLAYS, AREAS = "masks", "overlays", "areas.json"
READERS = 2  # threads; five images at most are held


class Predicted(NamedTuple):
    """One image's row of areas.json, or why there is none."""

    source: Source
    row: dict[str, Any]
    error: DataError | None


def predict(model: Segmenter, classes: ClassSet, sources: Sequence[Source], output: Path) -> Iterator[Predicted]:
    """Write masks/NAME.png and overlays/NAME.jpg below `output` for each image; a bad one ends nothing.

    Images are read ahead by threads; each file takes its place when it is whole.
    """
    for source, (image, error) in zip(sources, ahead(_read, sources, READERS), strict=True):
        if image is None:
            yield Predicted(source, {}, error)
            continue
        mask = model.mask(image, classes)
        found = areas(mask, classes.names)
        write_whole(
            output / OVERLAYS / f"{source.name}.jpg", overlay_jpeg(image, mask, classes.names, _ids(found, classes))
        )
        write_whole(output / MASKS / f"{source.name}.png", mask_png(mask))
        facts = {"image": str(source.path), "mask": f"{MASKS}/{source.name}.png"}
        yield Predicted(source, facts | {"height": len(mask), "width": mask.shape[1], "areas": found}, None)


def areas(mask_HW: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Pixels and share (0-1) of each class that occurs, the largest first."""
    counts = np.bincount(mask_HW.ravel(), minlength=len(names))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda index: -counts[index])
    return {
        names[index]: {"pixels": int(counts[index]), "share": float(counts[index] / mask_HW.size)} for index in order
    }


def write_areas(output: Path, model: str, classes: ClassSet, rows: list[dict[str, Any]]) -> None:
    """areas.json below `output`: model, classes in the order of mask ids, gamma of each, and a row for each image."""
    facts = {"model": model, "classes": classes.names, "gamma": classes.gamma_N.tolist(), "images": rows}
    write_whole(output / AREAS, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _read(source: Source) -> tuple[np.ndarray | None, DataError | None]:
    try:
        return read_image(source.path), None
    except DataError as error:
        return None, error


def _ids(found: dict[str, Any], classes: ClassSet) -> list[int]:
    return [classes.names.index(name) for name in found]
