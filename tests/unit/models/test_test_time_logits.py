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
