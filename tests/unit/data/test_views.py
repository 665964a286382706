"""Views depend on (seed, name, number) alone, and cut image, labels and validity alike."""

import numpy as np
import pytest

from cliptea.config import TeacherConfig
from cliptea.data.views import choose_view, cut_image, cut_labels, fitted_size, generator


def settings(**changes):
    return TeacherConfig(**({"base_scale": (64, 64), "ratio_range": (0.5, 2.0), "crop": 48} | changes))


@pytest.mark.parametrize(
    ("size", "fitted"), [((375, 500), (512, 683)), ((500, 375), (683, 512)), ((100, 1000), (205, 2048))]
)
def test_an_image_is_fitted_as_mmsegmentation_does(size, fitted):
    assert fitted_size(size, (2048, 512)) == fitted


def test_the_same_key_gives_the_same_view_and_others_differ():
    labels = np.random.default_rng(0).integers(0, 3, (64, 80), dtype=np.uint8)
    config = settings()
    view = choose_view(labels, "a", 0, config, 1)
    assert view == choose_view(labels, "a", 0, config, 1)
    others = [choose_view(labels, *key[:2], config, key[2]) for key in (("a", 1, 1), ("b", 0, 1), ("a", 0, 2))]
    assert all(view != other for other in others)
    assert generator("x", 1).integers(1 << 60) == generator("x", 1).integers(1 << 60)


def test_image_labels_and_validity_are_cut_alike():
    """The image's channels are the labels: after the cut they still agree, and padding is where validity ends."""
    rng = np.random.default_rng(0)
    small = 0
    for number in range(40):
        labels = rng.integers(0, 5, (30, 50), dtype=np.uint8)
        view = choose_view(labels, "a", number, settings(ratio_range=(0.5, 1.0), base_scale=(50, 30)), 0)
        cut, valid = cut_labels(labels, view), view.valid
        assert cut.shape == valid.shape == (48, 48)
        assert (cut[~valid] == 255).all()
        assert (cut[valid] < 5).all()
        flat = np.full((30, 50, 3), 200, dtype=np.uint8)
        np.testing.assert_array_equal(cut_image(flat, view)[..., 0], np.where(valid, 200, 0))
        small += not valid.all()
    assert small > 10


def test_without_scaling_a_crop_is_a_window_of_the_image():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (64, 64), dtype=np.uint8)
    view = choose_view(labels, "a", 0, settings(ratio_range=(1.0, 1.0)), 0)
    window = slice(view.top, view.top + 48), slice(view.left, view.left + 48)
    np.testing.assert_array_equal(cut_image(image, view), image[window])
    np.testing.assert_array_equal(cut_labels(labels, view), labels[window])


def test_a_crop_of_one_class_is_drawn_again():
    """The border between two halves lies well inside a crop for 23 of 209 places, and 11 draws are made."""
    labels = np.zeros((64, 256), dtype=np.uint8)
    labels[:, 128:] = 1
    config = settings(base_scale=(256, 64), ratio_range=(1.0, 1.0))
    shares = [cut_labels(labels, choose_view(labels, "a", n, config, 0)).mean() for n in range(200)]
    accepted = np.mean([0.25 < share < 0.75 for share in shares])
    expected = 1 - (1 - 23 / 209) ** 11
    assert abs(accepted - expected) < 5 * np.sqrt(expected * (1 - expected) / 200)
