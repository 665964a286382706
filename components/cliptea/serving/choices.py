"""What can be chosen for an exported model. Needs no torch, so that the command line shows and checks it at once."""

from __future__ import annotations

from typing import Literal

from cliptea.errors import ConfigError

__all__ = ["SUFFIXES", "Format", "Output", "Precision", "Server", "require_choices"]

Format = Literal["onnx", "openvino", "torch-export"]
Output = Literal["logits", "probabilities", "classes"]
Precision = Literal["float32", "float16", "int8"]
Server = Literal["kserve", "triton"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}  # of the main file


def require_choices(format: Format, output: Output, precision: Precision, *, named: bool, photos: bool) -> None:
    """Check that the choices for an exported model fit together.

    Args:
        named: whether it is fixed to classes.
        photos: whether there are images to calibrate int8 with.

    Raises:
        ConfigError: they do not.
    """
    if output != "logits" and not named:
        raise ConfigError(f"--result {output} needs fixed classes", "--names", "add --names, or omit --result")
    if precision != "float32" and format == "torch-export":
        raise ConfigError(f"--format torch-export has no --precision {precision}", "--format onnx or openvino")
    if precision == "int8" and not photos:
        raise ConfigError("--precision int8 has no images to calibrate with", "--images with images of your own")
