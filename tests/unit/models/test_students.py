"""Every registered student: size, stride, parameter groups."""

import pytest
import torch

from cliptea.errors import ConfigError
from cliptea.models import STUDENTS, build_student

STRIDES = {"demo_fpn": 2} | dict.fromkeys(["segnext_t", "segnext_s", "segnext_b", "segnext_l"], 8)
SMALL = {"demo_fpn", "segformer_b0", "convnext_atto", "segnext_t", "swin_t"}  # one of each family
BY_SIZE = [name if name in SMALL else pytest.param(name, marks=pytest.mark.long) for name in sorted(STUDENTS)]
LARGE = [pytest.param(name, marks=pytest.mark.long) for name in sorted(STUDENTS)]

# Millions of parameters of the whole student with 512 features, and of encoder, decoder and head where known.
MILLIONS = {
    "segformer_b0": ("3.846", "3.319", "0.395", "0.132"),
    "segformer_b4": ("61.500", "60.843", "0.526", "0.132"),
    "segformer_b4_wide": ("64.387", "60.843", "3.150", "0.394"),
    "swin_b": ("120.247", "86.741", "33.243", "0.263"),
    "swin_b_window12": ("120.382", "86.877", "33.243", "0.263"),
    "segnext_t": ("4.3564", "3.9036"),
    "segnext_s": ("14.0259", "13.4502"),
    "segnext_b": ("27.8220", "26.2778"),
    "segnext_l": ("49.2976", "44.6369"),
    "convnext_t": ("59.505", "27.819", "31.423", "0.263"),
    "convnext_b": ("121.070", "87.564", "33.243", "0.263"),
}
# Millions of parameters that the papers print: of the encoder (SegFormer, Table 1; the Mix Transformers B1 to B5), or
# of the classifier, which has a norm and 1000 classes more (Swin, Table 1; ConvNeXt, Table 1; ResNet).
PRINTED_ENCODERS = {"segformer_b1": "13.1", "segformer_b2": "24.2", "segformer_b3": "44.0", "segformer_b5": "81.4"}
PRINTED_CLASSIFIERS = {
    "swin_t": (768, "28.3"),
    "swin_s": (768, "49.6"),
    "swin_b": (1024, "87.8"),
    "convnext_atto": (320, "3.7"),
    "convnext_t": (768, "28.6"),
    "convnext_b": (1024, "88.6"),
}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def check_stride(student, name, *sizes):
    stride = STRIDES.get(name, 4)
    for height, width in sizes:
        features = student(torch.empty(1, 3, height, width, device="meta"))
        assert features.shape == (1, 512, height // stride, width // stride)


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_features_have_the_documented_stride(name, on_meta):
    check_stride(on_meta(name), name, (512, 512))


@pytest.mark.parametrize("name", BY_SIZE)
def test_features_have_the_documented_stride_at_other_sizes(name, on_meta):
    check_stride(on_meta(name), name, (480, 512), (512, 672), (64, 96))


@pytest.mark.parametrize("name", BY_SIZE)
def test_features_are_finite_and_have_the_asked_width(name):
    student = build_student(name, channels=24).eval()
    stride = STRIDES.get(name, 4)
    for height, width in ((64, 64), (96, 128)):
        with torch.no_grad():
            features = student(torch.randn(2, 3, height, width))
        assert features.shape == (2, 24, height // stride, width // stride)
        assert features.isfinite().all()


@pytest.mark.parametrize("name", LARGE)
def test_a_full_sized_image_gives_finite_features(name):
    with torch.no_grad():
        features = build_student(name).eval()(torch.randn(1, 3, 512, 512))
    stride = STRIDES.get(name, 4)
    assert features.shape == (1, 512, 512 // stride, 512 // stride)
    assert features.isfinite().all()


@pytest.mark.parametrize("name", sorted(MILLIONS))
def test_parameter_counts_are_the_published_ones(name, on_meta):
    student = on_meta(name)
    for module, printed in zip((student, student.encoder, student.decoder, student.head), MILLIONS[name], strict=False):
        assert f"{count(module):.{len(printed.partition('.')[2])}f}" == printed


@pytest.mark.parametrize("name", sorted(PRINTED_ENCODERS))
def test_encoders_have_the_size_that_their_paper_prints(name, on_meta):
    assert count(on_meta(name).encoder) == pytest.approx(float(PRINTED_ENCODERS[name]), abs=0.1)


@pytest.mark.parametrize("name", sorted(PRINTED_CLASSIFIERS))
def test_encoders_have_the_size_that_their_paper_prints_for_classifiers(name, on_meta):
    width, printed = PRINTED_CLASSIFIERS[name]
    classifier = (2 * width + 1000 * width + 1000) / 1e6
    assert f"{count(on_meta(name).encoder) + classifier:.1f}" == printed


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name, on_meta):
    student = on_meta(name)
    groups = list(student.parameter_groups())
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in student.parameters())
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    for group in groups:
        for parameter in group.parameters:
            table = names[id(parameter)].endswith("relative_position_bias_table")
            assert group.decay is (parameter.ndim > 1 and not table)
    heads = {id(p) for group in groups if group.head for p in group.parameters}
    assert heads == {id(p) for module in (student.decoder, student.head) for p in module.parameters()}


@pytest.mark.parametrize("name", BY_SIZE)
def test_gradients_reach_every_parameter(name):
    student = build_student(name, channels=24, dropout=0.0)
    for module in student.modules():  # a dropped path has no gradient
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    student(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [n for n, p in student.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "rate"), [("swin_b", 0.3), ("convnext_b", 0.4), ("segnext_l", 0.3), ("segnext_b", 0.1)]
)
def test_stochastic_depth_grows_from_block_to_block(name, rate, on_meta):
    rates = [module.drop_prob for module in on_meta(name).encoder.modules() if hasattr(module, "drop_prob")]
    assert sorted(rates) == rates
    assert rates[-1] == pytest.approx(rate)


def test_swin_keeps_its_windows_and_shifts_in_every_stage(on_meta):
    for name, window in (("swin_b", 7), ("swin_b_window12", 12)):
        blocks = [module for module in on_meta(name).encoder.modules() if hasattr(module, "shift_size")]
        assert [block.window_size for block in blocks] == [(window, window)] * 24
        assert [block.shift_size for block in blocks] == [(0, 0), (window // 2, window // 2)] * 12


def test_dropout_stands_before_the_last_convolution():
    student = build_student("demo_fpn", channels=8, dropout=1.0).train()
    features = student(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features, student.head.bias.view(1, -1, 1, 1).expand_as(features))


def test_an_unknown_backbone_is_one_line():
    with pytest.raises(ConfigError, match="segformer_b0"):
        build_student("segfromer_b0")
