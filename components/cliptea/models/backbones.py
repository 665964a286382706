"""Student networks by name. A backbone of an existing family takes one line here, and a new family one more file.

In addition, `timm:NAME` is UPerNet on any timm encoder that has a feature pyramid or is a plain vision transformer, and
`package.module:function` is the user's own network.
Importing this module does not import torch, so that settings can be checked quickly.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from cliptea.errors import ConfigError
from cliptea.models import backbone_names
from cliptea.own_code import backbone_is_code, find_code
from cliptea.weights_source import WeightsSource

if TYPE_CHECKING:
    from cliptea.models.student import Student

__all__ = ["STUDENTS", "Spec", "build_student", "licence", "require", "weights"]

NVIDIA = "NVIDIA Source Code License for SegFormer: non-commercial use only"
IN1K = "imagenet"


class Spec(NamedTuple):
    """A family module of this package, whose `build(channels, dropout, source, **arguments)` creates the network."""

    family: str
    arguments: dict[str, Any]
    tag: str | None = None  # weights for `pretrained=true`, or None if there are none
    licence: str = ""  # licence of these weights; "" if timm states it


def _mit(encoder: str, decoder_channels: int = 256) -> Spec:
    return Spec("segformer", {"encoder": encoder, "decoder_channels": decoder_channels}, IN1K, NVIDIA)


def _timm(encoder: str, tag: str, licence: str = "", decoder_channels: int = 512, drop_path: float = 0.0) -> Spec:
    arguments = {"encoder": encoder, "decoder_channels": decoder_channels, "drop_path": drop_path}
    return Spec("upernet", arguments, tag, licence)


# Widths, depths and rates are from the papers of the families and from MMSegmentation.
STUDENTS: dict[str, Spec] = {
    "demo_fpn": Spec("fpn", {"width": 64}),
    "segformer_b0": _mit("mit_b0"),
    "segformer_b1": _mit("mit_b1"),
    "segformer_b2": _mit("mit_b2"),
    "segformer_b3": _mit("mit_b3"),
    "segformer_b4": _mit("mit_b4"),
    "segformer_b4_wide": _mit("mit_b4", decoder_channels=768),  # the width of NVIDIA's own code
    "segformer_b5": _mit("mit_b5"),
    "swin_t": _timm("swin_tiny_patch4_window7_224", "ms_in1k", "MIT", drop_path=0.3),
    "swin_s": _timm("swin_small_patch4_window7_224", "ms_in1k", "MIT", drop_path=0.3),
    "swin_b": _timm("swin_base_patch4_window7_224", "ms_in1k", "MIT", drop_path=0.3),
    "swin_b_window12": _timm("swin_base_patch4_window12_384", "ms_in1k", "MIT", drop_path=0.3),
    "convnext_atto": _timm("convnext_atto", "d2_in1k", "Apache-2.0", decoder_channels=128),
    "convnext_t": _timm("convnext_tiny", "fb_in1k", "Apache-2.0", drop_path=0.4),
    "convnext_b": _timm("convnext_base", "fb_in1k", "Apache-2.0", drop_path=0.4),
    "segnext_t": Spec("segnext", {"size": "t"}, IN1K, "Apache-2.0"),
    "segnext_s": Spec("segnext", {"size": "s"}, IN1K, "Apache-2.0"),
    "segnext_b": Spec("segnext", {"size": "b"}, IN1K, "Apache-2.0"),
    "segnext_l": Spec("segnext", {"size": "l"}, IN1K, "Apache-2.0"),
}


def require(name: str) -> Spec:
    """The definition of a backbone. This imports neither torch nor timm.

    Raises:
        ConfigError: the student, timm encoder or module does not exist.
    """
    if name in STUDENTS:
        return STUDENTS[name]
    if name.startswith("timm:"):
        encoder, tag = backbone_names.timm_encoder(name)
        return _timm(encoder, tag)
    if backbone_is_code(name):
        module, function = find_code(name, "backbone", "package.module:function")
        return Spec("own", {"module": module, "function": function})
    raise ConfigError(
        f"the backbone {name!r} does not exist",
        f"one of {', '.join(STUDENTS)}, timm:NAME or package.module:function",
    )


def build_student(
    name: str, channels: int = 512, dropout: float = 0.1, pretrained: bool | str = False, random: bool = True
) -> Student:
    """Create a student: images (B, 3, H, W) -> dense features (B, channels, H/stride, W/stride).

    Args:
        channels: width of the features, which must be that of the teacher.
        dropout: probability before the last 1x1 convolution; custom networks ignore it.
        pretrained: initial weights of the encoder; see `weights`.
        random: whether the other initial weights are random. If all of them are loaded afterwards, zeros are quicker.
            The user's own networks are always built as they are.

    Raises:
        ConfigError: the network cannot be built, or its weights cannot be loaded or do not fit.
    """
    spec = require(name)
    family = importlib.import_module(f"cliptea.models.{spec.family}")
    if random or spec.family == "own":
        quick = nullcontext()
    else:
        from cliptea.models.unset import ZerosForRandom

        quick = ZerosForRandom()
    with quick:
        return family.build(channels=channels, dropout=dropout, source=weights(name, pretrained), **spec.arguments)


def weights(name: str, pretrained: bool | str) -> WeightsSource | None:
    """The initial weights of an encoder: a tag, a file or URI, or None for random weights.

    Args:
        pretrained: false, true for the backbone's usual ImageNet weights, a tag of timm, a file or s3://bucket/key.

    Raises:
        ConfigError: the backbone has no such weights.
    """
    if not pretrained:
        return None
    spec = require(name)
    if spec.tag is None:
        raise ConfigError(
            f"student.pretrained={pretrained} does not apply to the backbone {name}",
            "false, because it brings its own weights",
        )
    if pretrained is True or pretrained == spec.tag:
        return WeightsSource(spec.tag, "tag")
    source = WeightsSource.of(pretrained)
    if spec.family != "upernet" and not source.is_file:
        raise ConfigError(
            f"student.pretrained={pretrained} does not apply to the backbone {name}",
            f"true, {spec.tag} or a .safetensors/.pth/.bin file",
        )
    return source


def licence(name: str, pretrained: bool | str) -> str | None:
    """The licence of the initial weights, or None for random weights.

    Raises:
        ConfigError: the backbone has no such weights.
    """
    source, spec = weights(name, pretrained), require(name)
    if source is None:
        return None
    if source.is_file:
        published = f"; the published weights of {name}: {spec.licence}" if spec.licence else ""
        return f"the licence of {source} is not known here{published}"
    if source.text == spec.tag and spec.licence:
        return spec.licence
    from cliptea.models.timm_weights import published_licence

    return published_licence(spec.arguments["encoder"], source.text)
