"""Student networks by name. A backbone of a known family is one line here; a new family is one file more.

Importing this module needs no torch, so that settings are checked at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from cliptea.errors import ConfigError

if TYPE_CHECKING:
    from cliptea.models.student import Student

__all__ = ["STUDENTS", "build_student", "require"]


class Spec(NamedTuple):
    """A family module of this package, whose `build(channels, dropout, pretrained, **arguments)` makes the network."""

    family: str
    arguments: dict[str, Any]


STUDENTS: dict[str, Spec] = {
    "demo_fpn": Spec("fpn", {"width": 64}),
    "segformer_b0": Spec("segformer", {"encoder": "mit_b0", "decoder_channels": 256}),
    "convnext_atto": Spec("upernet", {"encoder": "convnext_atto", "decoder_channels": 128}),
}


def require(name: str) -> Spec:
    """The registry's entry.

    Raises:
        ConfigError: there is no such student.
    """
    if name not in STUDENTS:
        raise ConfigError(f"there is no backbone {name!r}", "one of " + ", ".join(STUDENTS))
    return STUDENTS[name]


def build_student(name: str, channels: int = 512, dropout: float = 0.1, pretrained: bool = False) -> Student:
    """A student by name: images (B, 3, H, W) -> dense features (B, channels, H/stride, W/stride).

    Args:
        channels: width of the features, which must be the teacher's.
        dropout: probability before the last 1x1 convolution.
        pretrained: ImageNet weights for the encoder.
    """
    spec = require(name)
    family = importlib.import_module(f"cliptea.models.{spec.family}")
    return family.build(channels=channels, dropout=dropout, pretrained=pretrained, **spec.arguments)
