"""Class colours: they look different, and are the same forever."""

import numpy as np
import pytest

from cliptea.data.colours import NEUTRAL, class_colour, hex_colour, palette


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65), written independently of the OKLab that the palette is made with."""
    c = rgb / 255
    c = np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
    xyz = c @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize(("classes", "least"), [(20, 15), (60, 10)])
def test_class_colours_look_different(classes, least):
    lab = cielab(palette()[[*range(classes), 255]].astype(float))
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    assert distance[~np.eye(len(lab), dtype=bool)].min() > least


def test_all_255_class_colours_are_distinct_and_fixed():
    colours = {class_colour(index) for index in range(255)}
    assert len(colours) == 255
    assert class_colour(255) == hex_colour(NEUTRAL)
    assert class_colour(255) not in colours
    # a change here would recolour every report that was ever made
    assert [class_colour(index) for index in (0, 1, 2)] == ["#3c78c3", "#ffd24b", "#871e4b"]
