"""The features of training images, against the network called image by image."""

import numpy as np
import pytest
import torch
from plain_student import Plain
from torch import nn

from cliptea.config import EvaluationConfig
from cliptea.evaluation import scoring
from cliptea.segment.normalise import normalise
from cliptea.segment.training_features import TrainingFeatures

DIM = 4


class Images:
    """Stands for train shards."""

    def __init__(self, number):
        self.pixels = np.random.default_rng(5).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.pixels)

    def name(self, place):
        return str(place)


@pytest.mark.parametrize("devices", [None, [torch.device("cpu")] * 2])
def test_the_features_are_means_over_each_image_of_an_even_choice(monkeypatch, devices):
    images = Images(160)
    monkeypatch.setattr(scoring, "MOST_TRAINING_IMAGES", 120)
    monkeypatch.setattr(scoring, "read_image", lambda reader, name: reader.pixels[int(name)])
    torch.manual_seed(0)
    student = Plain(nn.Conv2d(3, DIM, 4, 4), nn.Tanh()).eval()
    settings = EvaluationConfig(scale=(32, 32), divisor=32)
    found = scoring.fit_training_features(student, images, DIM, settings, devices)
    chosen = images.pixels[np.linspace(0, 159, 120).astype(int)]
    with torch.inference_mode():
        whole = student(torch.stack([normalise(torch.from_numpy(one).permute(2, 0, 1)) for one in chosen]))
    expected = TrainingFeatures.fit(whole.mean((2, 3)).numpy())
    assert np.isclose(found.limit, expected.limit, rtol=1e-3)
    assert torch.allclose(found.std_K, expected.std_K, rtol=1e-3)


def test_few_images_and_sliding_windows_give_no_features():
    student, settings = Plain(nn.Conv2d(3, DIM, 4, 4)).eval(), EvaluationConfig(scale=(32, 32), divisor=32)
    assert scoring.fit_training_features(student, Images(99), DIM, settings) is None
    slide = settings.model_copy(update={"mode": "slide"})
    assert scoring.fit_training_features(student, Images(160), DIM, slide) is None
