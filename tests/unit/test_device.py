"""The devices that are used by default, and those that a user names."""

import pytest
import torch

from cliptea import device, env, progress
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


@pytest.mark.parametrize(("wanted", "available", "count"), [("1", False, 0), ("2", True, 0), ("1", False, 1)])
def test_a_step_that_sees_none_of_its_gpus_ends_in_one_line(monkeypatch, wanted, available, count):
    monkeypatch.setenv(env.GPUS.name, wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)  # False if the driver is too old
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=f"torch can use 0 of the {wanted} GPUs? that the placement") as caught:
        device.prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("wanted", "count", "warned"), [("", 0, 0), ("", 2, 0), ("2", 2, 0), ("2", 8, 0), ("2", 1, 1)])
def test_a_step_that_sees_a_gpu_or_needs_none_goes_on(monkeypatch, wanted, count, warned):
    """Of MIG slices and time-shared GPUs, CUDA shows one device."""
    said = []
    monkeypatch.setattr(progress, "warn", said.append)
    monkeypatch.setenv(env.GPUS.name, wanted)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    device.prepare()
    assert len(said) == warned


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="no device cuda:2; expected one of cpu, cuda, cuda:0, cuda:1"):
        device.chosen("cuda:2")
