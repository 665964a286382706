"""Every registered student: size, stride, parameter groups."""

import pytest
import torch

from cliptea.errors import ConfigError
from cliptea.models import STUDENTS, build_student

STRIDES = {"demo_fpn": 2}
PARAMETERS = {"segformer_b0": 3_846_000}  # to the digits published for 512 output channels: 3.846 M


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_features_have_the_asked_width_and_the_documented_stride(name):
    student = build_student(name, channels=24).eval()
    stride = STRIDES.get(name, 4)
    for size in ((64, 64), (96, 128)):
        with torch.no_grad():
            features = student(torch.randn(2, 3, *size))
        assert features.shape == (2, 24, size[0] // stride, size[1] // stride)
        assert features.isfinite().all()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameter_counts_are_the_published_ones(name):
    count = sum(parameter.numel() for parameter in build_student(name).parameters())
    assert round(count, -3) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name):
    student = build_student(name, channels=24)
    groups = list(student.parameter_groups())
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in student.parameters())
    for group in groups:
        assert all((parameter.ndim > 1) is group.decay for parameter in group.parameters)
    heads = {id(p) for group in groups if group.head for p in group.parameters}
    assert heads == {id(p) for module in (student.decoder, student.head) for p in module.parameters()}


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_gradients_reach_every_parameter(name):
    student = build_student(name, channels=24, dropout=0.0)
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in student.named_parameters() if p.grad is None] == []


def test_dropout_stands_before_the_last_convolution():
    student = build_student("demo_fpn", channels=8, dropout=1.0).train()
    features = student(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features, student.head.bias.view(1, -1, 1, 1).expand_as(features))


def test_an_unknown_backbone_is_one_line():
    with pytest.raises(ConfigError, match="segformer_b0"):
        build_student("segfromer_b0")
