"""A student's logits at test time are its features times the text features, in float64."""

import pytest
import torch
from torch import nn

from cliptea.models import build_student

NAMES = ["demo_fpn", "segformer_b0", "convnext_atto", "segnext_t"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "classes"), [((64, 96), 3), ((96, 64), 1), ((64, 64), 40)])
def test_logits_are_features_times_texts(name, size, classes):
    torch.manual_seed(0)
    student = build_student(name, 16).eval().double()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(values, 0.2, 0.8)
    nn.init.uniform_(student.head.bias, -1, 1)
    images, texts = torch.randn(2, 3, *size).double(), torch.randn(classes, 16).double()
    with torch.inference_mode():
        features = student(images)
        wanted = (texts @ features.flatten(2)).unflatten(2, features.shape[2:])
        torch.testing.assert_close(student.logits(images, texts), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["demo_fpn", "segformer_b0"])
def test_logits_of_a_student_with_cosines_are_cosines_over_the_temperature(name):
    torch.manual_seed(0)
    student = build_student(name, 16).eval()
    images, texts = torch.randn(2, 3, 64, 64), nn.functional.normalize(torch.randn(5, 16), dim=1)
    student.feature_norm = "scaled_cosine"
    with torch.inference_mode():
        features = student(images).double()
        wanted = torch.einsum("bdhw,nd->bnhw", features, texts.double()) / features.norm(dim=1, keepdim=True) / 0.07
        torch.testing.assert_close(student.logits(images, texts).double(), wanted, rtol=1e-4, atol=1e-4)
