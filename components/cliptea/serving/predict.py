"""Masks, overlays and areas of many images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cliptea.data.ahead import ahead
from cliptea.errors import DataError
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving.overlays import mask_png, overlay_jpeg
from cliptea.serving.photos import Source, read_image
from cliptea.storage.local_files import write_file

__all__ = ["Predicted", "areas", "predict", "write_areas"]

MASKS, OVERLAYS, AREAS = "masks", "overlays", "areas.json"
READERS = 2  # threads, which read up to five images ahead
BATCH = 4  # images that go through the network together
MOST_PIXELS = 50_000_000  # maximum number of pixels in memory, unless a single image is larger


class Predicted(NamedTuple):
    """The row of an image in areas.json, or why it has none."""

    source: Source
    row: dict[str, Any]
    error: DataError | None


class _Image(NamedTuple):
    source: Source
    image: np.ndarray | None
    error: DataError | None


def predict(model: Segmenter, classes: ClassSet, sources: Sequence[Source], output: Path) -> Iterator[Predicted]:
    """Write masks/NAME.png and overlays/NAME.jpg below `output` for each image, and continue after unreadable images.

    Threads read images ahead, and images of the same size go through the network together. Files appear only when they
    are complete.
    """
    for part in _parts(ahead(_read, sources, READERS)):
        masks = _masks(model, classes, {place: one.image for place, one in enumerate(part) if one.image is not None})
        for place, (source, image, error) in enumerate(part):
            if image is None:
                yield Predicted(source, {}, error)
            else:
                yield Predicted(source, _write(source, image, masks[place], classes, output), None)


def _parts(images: Iterator[_Image]) -> Iterator[list[_Image]]:
    """Batches of `BATCH` images, or fewer if they are large."""
    part, pixels = [], 0
    for one in images:
        part.append(one)
        pixels += 0 if one.image is None else one.image.size // 3
        if len(part) == BATCH or pixels > MOST_PIXELS:
            yield part
            part, pixels = [], 0
    if part:
        yield part


def _masks(model: Segmenter, classes: ClassSet, images: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The masks of images by their positions."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, image in images.items():
        places.setdefault(model.padded_size(image), []).append(place)
    return {
        place: mask
        for alike in places.values()
        for place, mask in zip(alike, model.masks([images[place] for place in alike], classes), strict=True)
    }


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


def write_areas(output: Path, model: str, classes: ClassSet, rows: list[dict[str, Any]]) -> None:
    """Write areas.json below `output`, with model, classes in the order of mask ids, gammas, and a row per image."""
    facts = {"model": model, "classes": classes.names, "gamma": classes.gamma_N.tolist(), "images": rows}
    write_file(output / AREAS, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _read(source: Source) -> _Image:
    try:
        return _Image(source, read_image(source.path), None)
    except DataError as error:
        return _Image(source, None, error)
