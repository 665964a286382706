"""A confusion matrix as a picture with its classes' names, for MLflow and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cliptea.messages import printable
from cliptea.report.figures import png

__all__ = ["confusion_figure"]

CELL = (14, 32)  # pixels a class: of many and of few
LETTERS, GAP = 12, 4  # pixels
TITLE = "Pixels of each true class (rows) by predicted class (columns): white none, black all"


def confusion_figure(matrix_NN: np.ndarray, classes: Sequence[str]) -> bytes:
    """PNG of the shares of each true class (rows) by predicted class (columns), white for none and black for all.

    The cells fill the picture's lower right corner; names stand before rows and above columns.

    Args:
        matrix_NN: (N, N) pixel counts.
        classes: N names.
    """
    page, place, cell = _frame(tuple(map(printable, classes)))
    page = page.copy()
    page.paste(Image.fromarray(_greys(matrix_NN).repeat(cell, 0).repeat(cell, 1)), place)
    return png(page)


@lru_cache(maxsize=1)
def _frame(classes: tuple[str, ...]) -> tuple[Image.Image, tuple[int, int], int]:
    """The picture without cells, the position of the first cell, and the size of a cell in pixels."""
    number, font = len(classes), ImageFont.load_default(LETTERS)
    cell = min(CELL[1], max(CELL[0], 640 // number))
    edge = math.ceil(max(font.getlength(name) for name in classes)) + 2 * GAP
    size = number * cell
    left, top = max(edge, math.ceil(font.getlength(TITLE)) + 2 * GAP - size), edge + 2 * LETTERS
    page = Image.new("L", (left + size, top + size), "white")
    columns = Image.new("L", (edge, size), "white")
    rows_draw, columns_draw = ImageDraw.Draw(page), ImageDraw.Draw(columns)
    rows_draw.text((GAP, GAP), TITLE, fill=0, font=font)
    for index, name in enumerate(classes):
        middle = index * cell + cell // 2
        rows_draw.text((left - GAP, top + middle), name, fill=0, font=font, anchor="rm")
        columns_draw.text((GAP, middle), name, fill=0, font=font, anchor="lm")
    page.paste(columns.transpose(Image.Transpose.ROTATE_90), (left, top - edge))
    return page, (left, top), cell


def _greys(matrix_NN: np.ndarray) -> np.ndarray:
    """(N, N) uint8."""
    totals_N1 = matrix_NN.sum(1, keepdims=True)
    shares_NN = np.divide(matrix_NN, totals_N1, out=np.zeros(matrix_NN.shape), where=totals_N1 > 0)
    return np.round(255 * (1 - shares_NN)).astype(np.uint8)
