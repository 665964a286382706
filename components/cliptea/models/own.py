"""A custom network, which `package.module:function` returns for a number of channels.

Shape legend: B images, H, W input size, D feature channels, h, w output size.
"""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from cliptea.errors import ConfigError, refuse_system
from cliptea.models.student import Student
from cliptea.weights_source import WeightsSource

__all__ = ["OwnStudent", "build"]


class OwnStudent(Student):
    """Any module, with parameter groups for training.

    Args:
        network: images (B, 3, H, W) -> features (B, D, h, w). If it has an attribute `encoder`, parameters outside the
            encoder use the learning rate of the head. Otherwise, all parameters use the base learning rate.
        channels: D, the teacher's joint width.
        name: name of the network in errors.
    """

    def __init__(self, network: nn.Module, channels: int, name: str) -> None:
        has_encoder = isinstance(getattr(network, "encoder", None), nn.Module)
        super().__init__("network.encoder" if has_encoder else "", head_lr_factor=1.0)
        self.network, self._channels, self._name = network, channels, name

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Dense features (B, D, h, w).

        Raises:
            ConfigError: the network returns something else.
        """
        features = self.network(images_B3HW)
        wanted = (images_B3HW.shape[0], self._channels)
        if not isinstance(features, Tensor) or features.ndim != 4 or tuple(features.shape[:2]) != wanted:
            given = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError(f"the network {self._name} returns {given}", f"a tensor ({wanted[0]}, {wanted[1]}, h, w)")
        return features


def build(channels: int, dropout: float, source: WeightsSource | None, module: str, function: str) -> OwnStudent:
    """The network that `function` in `module` creates. This function decides about dropout and weights.

    Raises:
        ConfigError: the function cannot be imported or called, or does not return a module.
    """
    del dropout, source
    name = f"{module}:{function}"
    try:
        network = getattr(importlib.import_module(module), function)(channels)
    except Exception as error:  # this runs the user's code
        refuse_system(error, f"cannot create the network {name}")
        raise ConfigError(
            f"the network {name} cannot be created: {type(error).__name__}: {error}",
            "function(channels: int) -> torch.nn.Module",
        ) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"the network {name} is of type {type(network).__name__}", "a torch.nn.Module")
    return OwnStudent(network, channels, name)
