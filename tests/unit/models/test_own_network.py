"""A network of the user's own as the backbone."""

import pytest
import torch

from cliptea.errors import ConfigError
from cliptea.models import build_student

MODULE = """
import torch
from torch import nn

class WithEncoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4))
        self.classify = nn.Conv2d(4, channels, 1)
    def forward(self, images):
        return self.classify(self.encoder(images))

def with_encoder(channels): return WithEncoder(channels)
def plain(channels): return nn.Conv2d(3, channels, 8, stride=8)
def narrow(channels): return nn.Conv2d(3, channels - 1, 8, stride=8)
def flat(channels): return nn.Flatten()
def broken(channels): raise ValueError("no weights\\nanywhere")
def number(channels): return channels
class Torchvisions(nn.Conv2d):
    def forward(self, images): return {"out": super().forward(images)}
def named(channels): return Torchvisions(3, channels, 1)
"""


@pytest.fixture(autouse=True)
def networks(tmp_path, monkeypatch):
    package = tmp_path / "cliptea_users_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "networks.py").write_text(MODULE)
    (package / "unsound.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)


def build(function, module="networks"):
    return build_student(f"cliptea_users_package.{module}:{function}", channels=6)


def test_its_features_are_the_students():
    student = build("plain").eval()
    images = torch.randn(2, 3, 32, 48)
    assert student(images).shape == (2, 6, 4, 6)
    torch.testing.assert_close(student(images), student.network(images))


def test_an_encoder_and_the_rest_learn_at_their_own_rates():
    student = build("with_encoder")
    groups = [(group.head, group.decay, len(group.parameters)) for group in student.parameter_groups()]
    assert groups == [(False, True, 1), (False, False, 3), (True, True, 1), (True, False, 1)]
    heads = [p for group in student.parameter_groups() if group.head for p in group.parameters]
    assert {id(p) for p in heads} == {id(p) for p in student.network.classify.parameters()}


def test_without_an_encoder_all_learns_at_the_plain_rate():
    student = build("plain")
    assert [(group.head, group.decay) for group in student.parameter_groups()] == [(False, True), (False, False)]


def test_a_student_of_the_same_name_takes_its_state():
    one, two = build("with_encoder"), build("with_encoder")
    two.load_state_dict(one.state_dict())
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(one.eval()(images), two.eval()(images))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("narrow", "(2, 5, 4, 4); expected a tensor (2, 6, h, w)"),
        ("flat", "(2, 3072); expected a tensor (2, 6, h, w)"),
        ("named", "dict; expected a tensor"),
    ],
)
def test_features_of_another_shape_are_one_line(function, words):
    with pytest.raises(ConfigError) as error:
        build(function)(torch.randn(2, 3, 32, 32))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "module", "words"),
    [
        ("broken", "networks", "ValueError: no weights anywhere"),
        ("absent", "networks", "has no attribute 'absent'"),
        ("number", "networks", "is of type int; expected a torch.nn.Module"),
        ("plain", "unsound", "No module named 'a_module_that_is_not_there'"),
        ("plain", "missing", "cliptea_users_package.missing does not exist"),
    ],
)
def test_a_network_that_cannot_be_made_is_one_line(function, module, words):
    with pytest.raises(ConfigError) as error:
        build(function, module)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
