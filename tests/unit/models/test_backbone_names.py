"""Backbones outside the registry, and what is known of every backbone's weights, without building anything."""

import subprocess
import sys

import pytest

from cliptea.errors import ConfigError
from cliptea.models import STUDENTS, build_student
from cliptea.models.backbones import licence, require, weights
from cliptea.models.timm_weights import published_licence


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_names_are_checked_without_torch_and_timm():
    program = (
        "import sys; from cliptea.models.backbones import STUDENTS, licence, require\n"
        "for name in [*STUDENTS, 'timm:resnet50', 'json.decoder:make']: require(name)\n"
        "for name in STUDENTS: name == 'demo_fpn' or licence(name, True)\n"
        "print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_names_read_from_timm_are_those_that_timm_lists():
    import timm

    from cliptea.models.backbone_names import _timm_encoders

    assert sorted(_timm_encoders()) == sorted(timm.list_models())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:resnet5", "resnet50"),
        ("timm:", "timm has no encoder ''"),
        ("no_such_package.networks:make", "the module no_such_package"),
        ("json.no_such_module:make", "the module json.no_such_module"),
        ("json:", "package.module:function"),
        ("segnext", "timm:NAME or package.module:function"),
    ],
)
def test_an_unknown_name_is_one_line(name, words):
    with pytest.raises(ConfigError) as error:
        require(name)
    assert words in one_line(error)


def test_a_name_of_timm_may_have_a_tag():
    assert require("timm:resnet50").arguments["encoder"] == "resnet50"
    assert require("timm:resnet50.tv_in1k").arguments == require("timm:resnet50").arguments
    assert weights("timm:resnet50.tv_in1k", True) == ("tv_in1k", "tag")
    assert weights("timm:resnet50.tv_in1k", "a1_in1k") == ("a1_in1k", "tag")


def test_weights_are_a_tag_a_file_or_none():
    assert weights("swin_b", False) is None
    assert weights("swin_b", True) == ("ms_in1k", "tag")
    assert weights("swin_b", "ms_in22k") == ("ms_in22k", "tag")
    assert weights("segformer_b0", "s3://bucket/mit_b0.pth") == ("s3://bucket/mit_b0.pth", "remote")
    assert weights("json:make", False) is None


def test_a_folder_with_the_name_of_the_usual_weights_is_not_taken_for_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    assert weights("segformer_b0", True) == weights("segformer_b0", "imagenet") == ("imagenet", "tag")


@pytest.mark.parametrize(("name", "pretrained"), [("demo_fpn", True), ("segnext_b", "in22k"), ("json:make", "a.pth")])
def test_weights_that_a_backbone_cannot_have_are_one_line(name, pretrained):
    with pytest.raises(ConfigError) as error:
        licence(name, pretrained)
    assert f"student.pretrained={pretrained} does not apply to the backbone {name}" in one_line(error)


def test_a_tag_that_timm_does_not_know_names_those_that_it_does():
    with pytest.raises(ConfigError) as error:
        licence("swin_b", "ms_in99k")
    assert "ms_in1k, ms_in22k, ms_in22k_ft_in1k, a file" in one_line(error)


@pytest.mark.parametrize("name", sorted(STUDENTS))
def test_the_licence_is_that_of_the_weights(name):
    spec = STUDENTS[name]
    assert licence(name, False) is None
    if spec.tag is None:
        return
    stated = licence(name, True)
    if spec.family == "upernet":
        assert stated.lower() == published_licence(spec.arguments["encoder"], spec.tag)
    else:
        assert stated == licence(name, spec.tag)
        assert ("non-commercial" in stated) is (spec.family == "segformer")
    own = licence(name, "weights/mine.safetensors")
    assert (
        own == f"the licence of weights/mine.safetensors is not known here; the published weights of {name}: {stated}"
    )


def test_other_licences_are_timms():
    assert licence("convnext_b", "fb_in22k") == "apache-2.0"
    assert licence("timm:convnextv2_atto", True) == "cc-by-nc-4.0"
    assert licence("timm:resnet50", True) == "apache-2.0"


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_any_encoder_of_timm_can_be_a_backbone(size):
    import torch

    student = build_student("timm:resnet18", channels=24).eval()
    with torch.no_grad():
        assert student(torch.randn(1, 3, *size)).shape == (1, 24, size[0] // 4, size[1] // 4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "timm:cait_xxs24_224",
            "strides 4, 8, 16 and 32",
        ),  # one stride, and no interface for the outputs of its blocks
        ("timm:hiera_tiny_224", "rejects images of 96x160"),  # one size
    ],
)
def test_an_encoder_without_a_pyramid_for_any_size_is_one_line(name, words):
    with pytest.raises(ConfigError) as error:
        build_student(name, channels=8)
    assert words in one_line(error)
