"""Figures of one scored variant as files: the same images for every variant, and the confusion matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cliptea.data.catalogue import IGNORE
from cliptea.data.colours import legend
from cliptea.data.records import read_pair
from cliptea.data.sample import decode_image
from cliptea.data.shards import ShardReader
from cliptea.report.confusion_figure import confusion_figure
from cliptea.report.figures import label_map, photo, png

__all__ = ["variant_figures"]

GAP = 4  # pixels between photo, truth and prediction
HEADING, LETTERS = 18, 12  # pixels
SMALLEST = 192  # pixels of the longer edge of a photo; smaller ones are enlarged by a whole number
PREDICTION = "prediction/"


def variant_figures(reader: ShardReader, classes: list[str], arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Content by name: photo, truth and prediction of each chosen image side by side, and the confusion matrix.

    Args:
        reader: val shards.
        classes: their names in the order of train ids.
        arrays: confusion and prediction/IMAGE, as `cliptea.evaluation.scoring.score_student` returns them.
    """
    files = {}
    for key in [key for key in arrays if key.startswith(PREDICTION)]:
        name = key.removeprefix(PREDICTION)
        (image, truth), predicted = read_pair(reader, name), arrays[key]
        parts = {"image": photo(image), "ground truth": label_map(truth), "prediction": label_map(predicted)}
        shown = np.union1d(truth, predicted)
        files[f"{name}.png"] = _side_by_side(parts, [(classes[i], i) for i in shown.tolist() if i != IGNORE])
    matrix_NN = arrays["confusion"]
    described = {"rows": "true class", "columns": "predicted class", "classes": classes, "pixels": matrix_NN.tolist()}
    return files | {
        "confusion.json": json.dumps(described).encode(),
        "confusion.png": confusion_figure(matrix_NN, classes),
    }


def _side_by_side(parts: dict[str, bytes], entries: list[tuple[str, int]]) -> bytes:
    """Pictures under their names, at the right a legend of the classes `entries` (name and index)."""
    pictures = {name: _enlarged(Image.fromarray(decode_image(part, name))) for name, part in parts.items()}
    height = max(picture.height for picture in pictures.values())
    key, font = legend(entries, height), ImageFont.load_default(LETTERS)
    width = sum(picture.width + GAP for picture in pictures.values()) + key.width
    page = Image.new("RGB", (width, HEADING + max(height, key.height)), "white")
    draw, left = ImageDraw.Draw(page), 0
    for name, picture in pictures.items():
        draw.text((left, GAP), name, fill="black", font=font)
        page.paste(picture, (left, HEADING))
        left += picture.width + GAP
    page.paste(key, (left, HEADING))
    return png(page)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, SMALLEST // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
