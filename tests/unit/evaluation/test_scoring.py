"""Scores of a student against a pixel by pixel sum, on one simulated device and on several."""

import numpy as np
import pytest
import torch

from cliptea.config import EvaluationConfig
from cliptea.data.catalogue import Catalogue
from cliptea.errors import DataError
from cliptea.evaluation.scoring import score_student
from cliptea.models import build_student
from cliptea.segment.inference import image_logits

CLASSES, UNSEEN = ["sky", "grass", "cow", "zebra", "sofa"], [1, 3]
CATALOGUE = Catalogue(classes=CLASSES, unseen=[CLASSES[number] for number in UNSEEN])
SETTINGS = EvaluationConfig(scale=(96, 64), gamma=0.02, sweep=[0.0, 0.1], figures=3)
NAMES = [f"image{number}" for number in range(11)]


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    student = build_student("demo_fpn", 16).eval()
    with torch.no_grad():  # a mean of 0 for each feature, so that masks have several classes
        student.head.bias -= student(torch.randn(1, 3, 64, 96)).mean((0, 2, 3))
    return student


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(len(CLASSES), 16), dim=1)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    found = {}
    for name in NAMES:
        size = [(64, 96), (50, 70), (96, 64)][rng.integers(3)]
        labels = rng.choice([*range(len(CLASSES)), 255], size).astype(np.uint8)
        found[name] = rng.integers(0, 256, (*size, 3), dtype=np.uint8), labels
    return found


def masks(student, text, pairs, gamma):
    """NumPy's argmax of all logits at the size of the image."""
    found = {}
    for name, (image, _) in pairs.items():
        (logits,) = image_logits(student, [image], text, SETTINGS)
        whole = np.concatenate([group.numpy() for _, group in logits.groups()])
        whole[UNSEEN] += np.float32(gamma)
        found[name] = whole.argmax(0)
    return found


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_the_matrix_of_all_devices_is_the_sum_over_all_pixels(student, text, pairs, devices):
    places = [torch.device("cpu")] * devices
    scored, arrays = score_student(student, NAMES, pairs.__getitem__, CATALOGUE, text, SETTINGS, "val", places)
    wanted = masks(student, text, pairs, SETTINGS.gamma)
    total = np.zeros((5, 5), dtype=np.int64)
    for name, (_, labels) in pairs.items():
        labelled = labels != 255
        np.add.at(total, (labels[labelled], wanted[name][labelled]), 1)
    assert (total.sum(0) > 0).sum() > 1  # the masks have several classes
    np.testing.assert_array_equal(arrays["confusion"], total)
    inside = np.diag(total)
    iou = inside / (total.sum(0) + total.sum(1) - inside)
    assert scored.per_class == pytest.approx(dict(zip(CLASSES, iou, strict=True)))
    assert scored.scores.miou_unseen == pytest.approx(iou[UNSEEN].mean())
    assert list(scored.sweep) == ["0", "0.02", "0.1"]
    shown = {key.removeprefix("prediction/"): mask for key, mask in arrays.items() if key.startswith("prediction/")}
    assert len(shown) == 3
    for name, mask in shown.items():
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, wanted[name])


def test_an_image_that_cannot_be_read_ends_the_work_of_all_devices(student, text, pairs):
    def read(name):
        if name == NAMES[6]:
            raise DataError("image6 is damaged")
        return pairs[name]

    with pytest.raises(DataError, match="image6 is damaged"):
        score_student(student, NAMES, read, CATALOGUE, text, SETTINGS, "val", [torch.device("cpu")] * 2)
