"""Pictures of a scored variant for its MLflow run: the same images in every run, and the confusion matrix."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from cliptea.data.catalogue import Catalogue
from cliptea.data.sample import decode_image, decode_labels
from cliptea.data.shards import ShardReader
from cliptea.data.split import LABEL
from cliptea.evaluation import figures
from cliptea.manifest import Manifest, read_object
from cliptea.storage import Store
from cliptea.teacher.cache import image_extension

__all__ = ["confusion_picture", "tracked_files"]

CELL = 8  # pixels a class
GAP = 4  # pixels between photo, truth and prediction
PREDICTION = "prediction/"


def tracked_files(store: Store, split: Manifest, evaluated: Manifest) -> dict[str, bytes]:
    """Content by name: photo, truth and prediction of each chosen image side by side, and the confusion matrix.

    Args:
        store: where both manifests' objects are.
        split: of the evaluation set.
        evaluated: the scores on it.
    """
    reader = ShardReader(store, split.objects, "val")
    with np.load(io.BytesIO(read_object(store, evaluated.objects["figures.npz"]))) as arrays:
        files = {}
        for key in [key for key in arrays.files if key.startswith(PREDICTION)]:
            name = key.removeprefix(PREDICTION)
            photo = decode_image(reader.read(name, image_extension(reader, name)), name)
            truth = decode_labels(reader.read(name, LABEL), name)
            parts = [figures.photo(photo), figures.label_map(truth), figures.label_map(arrays[key])]
            files[f"{name}.png"] = _side_by_side(parts)
        matrix_NN = arrays["confusion"]
    classes = Catalogue.model_validate(split.info["catalogue"]).classes
    described = {"rows": "true class", "columns": "predicted class", "classes": classes, "pixels": matrix_NN.tolist()}
    return files | {
        "confusion.json": json.dumps(described).encode(),
        "confusion.png": _png(confusion_picture(matrix_NN)),
    }


def confusion_picture(matrix_NN: np.ndarray) -> Image.Image:
    """Shares of each true class (rows) by predicted class (columns), white for none and black for all.

    Args:
        matrix_NN: (N, N) pixel counts.
    """
    totals_N1 = matrix_NN.sum(1, keepdims=True)
    shares_NN = np.divide(matrix_NN, totals_N1, out=np.zeros(matrix_NN.shape), where=totals_N1 > 0)
    grey_NN = np.round(255 * (1 - shares_NN)).astype(np.uint8)
    return Image.fromarray(np.kron(grey_NN, np.ones((CELL, CELL), dtype=np.uint8)))


def _side_by_side(parts: list[bytes]) -> bytes:
    pictures = [Image.open(io.BytesIO(part)).convert("RGB") for part in parts]
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    page = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        page.paste(picture, (left, 0))
        left += picture.width + GAP
    return _png(page)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
