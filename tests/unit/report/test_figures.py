"""Pictures as bytes: exact where they are small, true in colour."""

import io

import numpy as np
from PIL import Image

from cliptea.data.colours import palette
from cliptea.report import figures


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def test_a_label_map_has_each_class_s_colour_at_each_pixel():
    labels = np.random.default_rng(0).integers(0, 60, (48, 64))
    labels[:2] = 255
    picture = figures.label_map(labels)
    assert picture.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels(picture), palette()[labels])


def test_large_label_maps_shrink_without_new_colours():
    labels = np.zeros((600, 900), dtype=np.int64)
    labels[:, 450:] = 7
    found = pixels(figures.label_map(labels))
    assert found.shape == (256, 384, 3)
    assert {tuple(c) for c in found.reshape(-1, 3)} == {tuple(palette()[i].astype(int)) for i in (0, 7)}


def test_small_photos_are_exact_and_large_ones_jpeg():
    small = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels(figures.photo(small)), small)
    large = figures.photo(np.zeros((1000, 500, 3), dtype=np.uint8))
    assert pixels(large).shape == (384, 192, 3)
    assert figures.data_uri(large).startswith("data:image/jpeg;base64,")
    assert figures.data_uri(figures.photo(small)).startswith("data:image/png;base64,")


def test_uniform_attention_has_no_colour_whatever_its_sum():
    image = np.full((32, 32, 3), 100, dtype=np.uint8)
    for weights in (np.ones((8, 8)), np.full((8, 8), 1 / 64), np.zeros((8, 8))):
        found = pixels(figures.heat_overlay(image, weights))
        assert np.ptp(found) == 0


def test_attention_is_red_above_and_blue_below_uniform():
    image = np.full((32, 32, 3), 128, dtype=np.uint8)
    weights = np.full((32, 32), 0.1)
    weights[:, 16:] = 2.0
    red, _, blue = np.moveaxis(pixels(figures.heat_overlay(image, weights, 1.0)), -1, 0)
    assert (blue[:, :14] > red[:, :14] + 50).all()
    assert (red[:, 18:] > blue[:, 18:] + 50).all()


def test_heat_range_covers_the_weights_with_a_round_number_of_octaves():
    flat = np.ones((10, 10))
    assert figures.heat_range([flat]) == figures.OCTAVES[0]
    assert figures.heat_range([]) == figures.OCTAVES[0]
    half = np.concatenate([np.full(50, 0.6), np.full(50, 1.4)])  # log2: -0.74 and 0.49
    assert figures.heat_range([flat, half]) == 1.0
    spiky = np.full(100, 1e-9)
    spiky[0] = 1
    assert figures.heat_range([spiky]) == figures.OCTAVES[-1]


def test_region_maps_colour_regions_and_leave_labelled_pixels_grey():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    labels = np.full((32, 32), 255)
    labels[:16] = 3
    regions = np.full((32, 32), 255)
    regions[16:, :16], regions[16:, 16:] = 0, 1
    found = pixels(figures.region_map(image, labels, regions))
    assert (found[:16] == found[:16, :, :1]).all()
    left, right = found[16:, :16].reshape(-1, 3).mean(0), found[16:, 16:].reshape(-1, 3).mean(0)
    assert np.abs(left - right).max() > 60
