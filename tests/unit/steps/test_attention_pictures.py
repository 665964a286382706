"""Attention in the report: padding has no colour, and the rest has the colours that it has without padding."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cliptea.data.records import ViewImage
from cliptea.method import glm, plm
from cliptea.report import figures
from cliptea.steps.gather import attention_pictures


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture))).astype(int)


@pytest.mark.parametrize("mode", ["attention", "max", "mean"])
@pytest.mark.parametrize("inside", [64, 40])
def test_a_padded_view_is_coloured_as_its_part_without_padding(mode, inside):
    """Against the part of the view on its own, in whose map each position is an image position."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    valid = np.zeros((64, 64), dtype=bool)
    valid[:inside] = True
    torch.manual_seed(0)
    features = torch.randn(1, 32, 16, 16)
    valid_Bhw = plm.reduce_labels(torch.from_numpy(valid)[None], (16, 16))
    weights = glm.attend(torch.randn(1, 32), features, valid_Bhw, mode).weights_Bhw[0].numpy()
    view = ViewImage(image, image[..., 0], valid)
    (shown,) = attention_pictures({"a": view}, {"table3/full": {"attention/a": weights}})
    maps = shown.maps["table3/full"]
    whole = pixels(figures.heat_overlay(image, maps, 3.0))
    alone = pixels(figures.heat_overlay(image[:inside], weights[: inside // 4], 3.0))
    # Without the rows that the resizing blends. One grey level is the rounding of the weights.
    np.testing.assert_allclose(whole[: inside - 4], alone[: inside - 4], atol=1)
    assert np.ptp(whole[inside + 4 :], axis=2).max(initial=0) <= 1
    assert (np.ptp(whole, axis=2).max() <= 1) == (mode == "mean")


def test_a_view_of_padding_alone_has_no_colour():
    image = np.full((32, 32, 3), 90, np.uint8)
    view = ViewImage(image, image[..., 0], np.zeros((32, 32), dtype=bool))
    (shown,) = attention_pictures({"a": view}, {"b": {"attention/a": np.zeros((8, 8), np.float32)}})
    assert np.ptp(pixels(figures.heat_overlay(image, shown.maps["b"]))) == 0
