"""The confusion matrix as a picture: shares as greys, and where the names stand."""

import io

import numpy as np
from PIL import Image

from cliptea.report.confusion_figure import CELL, confusion_figure


def drawn(matrix, classes):
    return np.asarray(Image.open(io.BytesIO(confusion_figure(matrix, classes))))


def test_a_cell_is_as_dark_as_its_share_of_the_true_class():
    matrix = np.random.default_rng(0).integers(0, 50, (5, 5))
    matrix[3] = 0  # a class without pixels
    picture = drawn(matrix, ["sky", "grass", "cow", "zebra", "a name that is long"])
    cell = CELL[1]
    cells = picture[-5 * cell :, -5 * cell :].reshape(5, cell, 5, cell)
    assert (cells == cells[:, :1, :, :1]).all()
    wanted = [[0 if row.sum() == 0 else value / row.sum() for value in row] for row in matrix]
    np.testing.assert_allclose(1 - cells[:, 0, :, 0] / 255, wanted, atol=0.5 / 255 + 1e-9)


def test_names_stand_before_rows_and_above_columns():
    names = ["sky", "a name that is long", "cow"]
    picture = drawn(np.zeros((3, 3), int), names)
    cell = CELL[1]
    top, left = picture.shape[0] - 3 * cell, picture.shape[1] - 3 * cell
    assert (picture[top:, left:] == 255).all()
    before = [(picture[top + i * cell : top + (i + 1) * cell, :left] < 128).sum() for i in range(3)]
    above = [(picture[20:top, left + i * cell : left + (i + 1) * cell] < 128).sum() for i in range(3)]
    for ink in (before, above):
        assert min(ink) > 10
        assert ink[1] > 2 * max(ink[0], ink[2])
    assert (picture[:16] < 128).sum() > 200  # the title
