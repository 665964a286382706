"""The devices that are used by default, and those that a user names."""

import pytest
import torch

from cliptea import device, env
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


@pytest.mark.parametrize(("wanted", "available", "count"), [("1", False, 0), ("2", True, 1), ("1", False, 1)])
def test_a_step_that_sees_fewer_gpus_than_it_was_given_ends_in_one_line(monkeypatch, wanted, available, count):
    monkeypatch.setenv(env.GPUS.name, wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)  # False if the driver is too old
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    seen = count if available else 0
    with pytest.raises(ConfigError, match=f"torch can use {seen} of the {wanted} GPUs? that the placement") as caught:
        device.prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wanted", "count"), [("", 0), ("", 2), ("2", 2), ("2", 8)])
def test_a_step_with_enough_gpus_or_without_a_wish_goes_on(monkeypatch, wanted, count):
    monkeypatch.setenv(env.GPUS.name, wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    device.prepare()


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="no device cuda:2; expected one of cpu, cuda, cuda:0, cuda:1"):
        device.chosen("cuda:2")
