"""The devices that are used by default, and those that a user names."""

import pytest
import torch

from cliptea import device
from cliptea.errors import ConfigError


def named(where):
    return [str(one) for one in where]


@pytest.mark.parametrize(
    ("gpus", "name", "wanted"),
    [
        (0, None, ["cpu"]),
        (3, None, ["cuda:0", "cuda:1", "cuda:2"]),
        (3, "cuda:1", ["cuda:1"]),
        (3, "cuda", ["cuda"]),
        (3, "cpu", ["cpu"]),
    ],
)
def test_all_gpus_are_used_unless_one_device_is_named(monkeypatch, gpus, name, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert named(device.chosen(name)) == wanted


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="no device cuda:2; expected one of cpu, cuda, cuda:0, cuda:1"):
        device.chosen("cuda:2")
