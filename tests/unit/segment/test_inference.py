"""Logits of whole images and of sliding windows, against what they are by hand."""

import numpy as np
import pytest
import torch
from naive_logits import class_logits
from plain_student import Plain
from torch import nn

from cliptea.config import EvaluationConfig


def test_logits_come_at_the_images_own_size_and_ignore_the_padding():
    """A 1x1 network: after resizing back, a flat image must give one flat logit, whatever was padded."""
    student = Plain(nn.Conv2d(3, 5, 1)).eval()
    text = nn.functional.normalize(torch.randn(4, 5), dim=1)
    config = EvaluationConfig(scale=(100, 50), divisor=32)
    image = np.full((75, 133, 3), 90, dtype=np.uint8)
    logits = class_logits(student, image, text, config)
    assert logits.shape == (4, 75, 133)
    normal = (torch.full((3,), 90.0) - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor([58.395, 57.12, 57.375])
    wanted = text @ (student.network[0].weight.detach()[:, :, 0, 0] @ normal + student.network[0].bias.detach())
    inner = logits[:, 5:-5, 5:-5]
    torch.testing.assert_close(inner, wanted.view(4, 1, 1).expand_as(inner), rtol=1e-4, atol=1e-4)


def test_an_image_that_fits_is_not_resampled():
    student = Plain(nn.Conv2d(3, 5, 1)).eval()
    text = nn.functional.normalize(torch.randn(4, 5), dim=1)
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    logits = class_logits(student, image, text, EvaluationConfig(scale=(96, 64)))
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    pixels = (image - mean) / std
    features = (
        pixels @ student.network[0].weight.detach().double().numpy()[:, :, 0, 0].T
        + student.network[0].bias.detach().double().numpy()
    )
    np.testing.assert_allclose(logits.numpy(), (features @ text.double().numpy().T).transpose(2, 0, 1), atol=1e-4)


def mmseg_windows(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Grid of MMSegmentation's sliding inference, written from its formula."""
    grids = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(index * stride + crop, length) for index in range(grids)]
    return [(max(end - crop, 0), end) for end in ends]


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [((96, 160), 64, 48), ((64, 64), 64, 40), ((70, 131), 32, 32), ((50, 90), 64, 33), ((97, 65), 32, 1)],
)
def test_sliding_windows_average_the_logits_of_every_window(size, window, stride):
    torch.manual_seed(0)
    student = Plain(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 2, 1)).eval()
    text = nn.functional.normalize(torch.randn(4, 5), dim=1)
    image = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    fits = {"scale": (max(size), min(size)), "divisor": 8}
    sums, counts = np.zeros((4, *size)), np.zeros(size)
    for top, bottom in mmseg_windows(size[0], window, stride):
        for left, right in mmseg_windows(size[1], window, stride):
            part = image[top:bottom, left:right]
            scale = (max(part.shape[:2]), min(part.shape[:2]))
            alone = EvaluationConfig(scale=scale, divisor=8)
            sums[:, top:bottom, left:right] += class_logits(student, part, text, alone).double().numpy()
            counts[top:bottom, left:right] += 1
    logits = class_logits(student, image, text, EvaluationConfig(mode="slide", window=window, stride=stride, **fits))
    np.testing.assert_allclose(logits.numpy(), sums / counts, atol=1e-4)


def test_a_window_as_large_as_the_image_is_the_whole_image():
    torch.manual_seed(0)
    student = Plain(nn.Conv2d(3, 5, 3, 2, 1)).eval()
    text = nn.functional.normalize(torch.randn(4, 5), dim=1)
    image = np.random.default_rng(2).integers(0, 255, (75, 133, 3), dtype=np.uint8)
    whole = class_logits(student, image, text, EvaluationConfig(scale=(200, 100)))
    slide = class_logits(student, image, text, EvaluationConfig(scale=(200, 100), mode="slide"))
    assert torch.equal(whole, slide)
