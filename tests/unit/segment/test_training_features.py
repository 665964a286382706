"""The distance of an image from the training images, against SciPy, and the share of images beyond its limit."""

import numpy as np
import pytest
import torch
from safetensors.torch import save
from scipy.spatial.distance import mahalanobis

from cliptea.errors import NotFinite
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.training_features import TrainingFeatures, image_feature

DIM = 6
MIXED = np.random.default_rng(1).normal(size=(DIM, DIM))


def drawn(number, seed):
    return np.random.default_rng(seed).normal(size=(number, DIM)) @ MIXED + 3


def along(found, feature_D):
    """An image with this feature, as the network sees it with the directions as text features."""
    small = torch.tensor(found.directions_KD.numpy() @ feature_D, dtype=torch.float32)
    return ImageLogits(small[:, None, None], (4, 4), (4, 4), (4, 4))


def test_the_distance_is_that_of_mahalanobis_and_the_limit_its_quantile_over_the_other_images():
    features = drawn(400, 2)
    found = TrainingFeatures.fit(features)
    inverse = np.linalg.inv(np.cov(features[::2], rowvar=False))
    reference = [mahalanobis(one, features[::2].mean(0), inverse) for one in features[1::2]]
    assert found.limit == pytest.approx(np.quantile(np.square(reference), 0.99), rel=1e-4)
    for one, expected in zip(features[1:21:2], reference, strict=False):
        assert found.distance(along(found, one)) == pytest.approx(expected / np.sqrt(found.limit), rel=1e-3)


def test_one_new_image_in_a_hundred_lies_beyond_the_limit_and_another_distribution_does():
    shares = []
    for seed in range(20):
        found = TrainingFeatures.fit(drawn(400, seed))
        shares.append(np.mean([found.distance(along(found, one)) > 1 for one in drawn(200, 100 + seed)]))
    assert 0.005 < np.mean(shares) < 0.025
    assert np.mean([found.distance(along(found, -one)) > 1 for one in drawn(200, 7)]) > 0.9


def test_directions_that_hardly_vary_are_left_out_and_few_or_equal_images_tell_nothing():
    features = drawn(200, 3)
    features[:, 0] = features[:, 1]
    assert len(TrainingFeatures.fit(features).directions_KD) == DIM - 1
    assert len(TrainingFeatures.fit(np.random.default_rng(0).normal(size=(100, 50))).directions_KD) == 10
    assert TrainingFeatures.fit(drawn(99, 3)) is None
    assert TrainingFeatures.fit(np.ones((200, DIM))) is None


def test_a_distance_that_is_no_number_is_refused():
    found = TrainingFeatures.fit(drawn(100, 4))
    tiny = found._replace(std_K=found.std_K * 0 + 1e-40)
    with pytest.raises(NotFinite, match="the distance of an image"):
        tiny.distance(along(tiny, np.ones(DIM)))


def test_padding_is_no_part_of_the_feature():
    small = torch.rand(3, 4, 6)
    logits = ImageLogits(small, (32, 48), (15, 24), (30, 48))  # 8 pixels each: two rows and three columns
    assert torch.allclose(image_feature(logits), small[:, :2, :3].mean((1, 2)))


def test_a_file_is_read_as_it_was_written_and_a_damaged_one_is_refused():
    found = TrainingFeatures.fit(drawn(100, 4))
    again = TrainingFeatures.load(found.dump(), DIM, "file")
    assert all(torch.equal(one, other) for one, other in zip(found[:3], again[:3], strict=True))
    assert again.limit == found.limit
    with pytest.raises(ValueError, match="has the shapes"):
        TrainingFeatures.load(found.dump(), DIM + 1, "file")
    with pytest.raises(ValueError, match="not positive"):
        TrainingFeatures.load(found._replace(std_K=found.std_K * 0).dump(), DIM, "file")
    small = found.std_K.clone()
    small[-1] = 1e-40
    with pytest.raises(ValueError, match="too small beside the others"):
        TrainingFeatures.load(found._replace(std_K=small).dump(), DIM, "file")
    with pytest.raises(NotFinite, match="mean of file holds NaN"):
        TrainingFeatures.load(found._replace(mean_K=found.mean_K * torch.nan).dump(), DIM, "file")
    with pytest.raises(NotFinite, match="directions of file holds NaN"):
        TrainingFeatures.load(found._replace(directions_KD=found.directions_KD.double() * 1e300).dump(), DIM, "file")
    with pytest.raises(KeyError):
        TrainingFeatures.load(save({"mean": found.mean_K}), DIM, "file")
