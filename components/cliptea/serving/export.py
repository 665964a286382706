"""Exports a student to an ONNX file with the class embeddings as an input, and compares it with torch before writing.

Shape legend: B images, H, W size; N classes; D width.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cliptea import progress
from cliptea.config import EvaluationConfig
from cliptea.errors import ConfigError
from cliptea.segment.inference import rounded_up
from cliptea.segment.normalise import IMAGE_MEAN
from cliptea.segment.segmenter import Segmenter
from cliptea.serving.graph import Network
from cliptea.serving.parity import NotExported, Parity, check_onnx, first_line
from cliptea.storage.local_files import write_file
from cliptea.teacher.templates import list_templates

__all__ = ["Exported", "export_onnx", "mask_recipe", "require_replaceable"]

OPSET = 18
EXAMPLE = (3, 5)  # height and width in multiples of the divisor; not a square, to find code that assumes one
TRIED = ((2, 2, 2, 1), (1, 4, 3, 5), (1, 3, 5, 7), (3, 6, 2, 3))  # B, H and W in multiples of the divisor, N
MOST = 1 << 14  # maximum height and width, pixels


class Exported(NamedTuple):
    """The inputs of the file, and its difference from torch."""

    fixed: tuple[int, int] | None  # height and width, if the network only allows one size
    parity: Parity


def export_onnx(model: Segmenter, file: Path, size: tuple[int, int] | None = None) -> Exported:
    """Write `file`, and a file with the suffix .json that contains class names, gamma, embeddings and sizes.

    The network takes `images` (B, 3, H, W) float32 RGB 0-255, H and W multiples of the divisor, and `embeddings` (N, D)
    float32 of unit norm, and returns `logits` (B, N, H, W). The `steps` in the second file explain how to get the mask
    that `cliptea predict` writes for an image of any size.

    Args:
        size: fixed height and width; None: any size if the network can be exported like this, or else the size of the
            scale.

    Raises:
        ConfigError: the size is not a multiple of the divisor.
        ClipteaError: the network cannot be exported, or the file gives other results than torch.
        StorageError: it cannot be written.
    """
    evaluation = model.description.evaluation
    if size is not None and any(edge % evaluation.divisor for edge in size):
        raise ConfigError(f"the size {size[0]}x{size[1]} does not fit the model", f"multiples of {evaluation.divisor}")
    network = Network(model).eval()
    if size is None:
        try:
            return _export(model, network, file, None)
        except NotExported as error:
            size = rounded_up((min(evaluation.scale),) * 2, evaluation.divisor)
            progress.warn(
                f"cannot export for images of any size: {error.what}; exporting for {size[0]}x{size[1]} only "
                "(change it with --size)"
            )
    return _export(model, network, file, size)


def require_replaceable(file: Path) -> None:
    """Check that `export_onnx` would only replace files of an earlier export.

    Raises:
        ConfigError: one of the two files is from somebody else.
    """
    facts = file.with_suffix(".json")
    present = [path for path in (file, facts) if path.exists()]
    if present and not _is_export(facts):
        raise ConfigError(f"{present[0]} exists and is not an earlier export", "a new file name", "change it with -o")


def _is_export(facts: Path) -> bool:
    try:
        return set(json.loads(facts.read_bytes())) >= {"inputs", "output", "steps", "embeddings"}
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _export(model: Segmenter, network: nn.Module, file: Path, size: tuple[int, int] | None) -> Exported:
    data = _to_onnx(network, model, size)
    dim, divisor = model.description.dim, model.description.evaluation.divisor
    sizes = (
        [(b, h * divisor, w * divisor, n) for b, h, w, n in TRIED] if size is None else [(1, *size, n) for n in (1, 5)]
    )
    parity = check_onnx(data, network, dim, sizes)
    write_file(file.with_suffix(".json"), _facts(model, size))
    write_file(file, data)
    return Exported(size, parity)


def _to_onnx(network: nn.Module, model: Segmenter, size: tuple[int, int] | None) -> bytes:
    divisor, dim = model.description.evaluation.divisor, model.description.dim
    height, width = size or (EXAMPLE[0] * divisor, EXAMPLE[1] * divisor)
    example = (torch.zeros(2, 3, height, width), torch.zeros(3, dim))
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if size is None:  # declared as multiples, which makes torch's computations of shapes shorter
        free |= {
            axis: divisor * torch.export.Dim(name, min=1, max=MOST // divisor) for axis, name in ((2, "h"), (3, "w"))
        }
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                network,
                example,
                input_names=["images", "embeddings"],
                output_names=["logits"],
                dynamic_shapes=(free, {0: torch.export.Dim.DYNAMIC}),
                opset_version=OPSET,
                verbose=False,
            )
            return program.model_proto.SerializeToString()
    except Exception as error:  # torch raises many kinds of errors for unsupported networks
        raise NotExported(f"torch cannot export the network ({first_line(error)})") from error


def _facts(model: Segmenter, size: tuple[int, int] | None) -> bytes:
    description = model.description
    facts = {
        "inputs": "images: float32 RGB 0-255 (B, 3, H, W); embeddings: float32, unit norm (N, D)",
        "output": "logits: float32 (B, N, H, W)",
        "steps": mask_recipe(description.evaluation, size),
        "size": size,
        "divisor": description.evaluation.divisor,
        "scale": description.evaluation.scale,
        "padding": IMAGE_MEAN,
        "gamma": description.evaluation.gamma,
        "classes": description.classes,
        "unseen": description.unseen,
        "embeddings": model.text_ND.tolist(),
        "templates": list_templates(description.teacher.templates) if description.teacher else None,
    }
    return json.dumps(facts, ensure_ascii=False).encode()


def mask_recipe(evaluation: EvaluationConfig, size: tuple[int, int] | None) -> list[str]:
    """The steps of `Segmenter.mask` in words, for use without this package and with logits at the size of the input.

    Args:
        evaluation: scale, divisor, and mode with window and stride.
        size: the only height and width that the network accepts. The steps are then an approximation. None: any size.
    """
    if size is None:
        factor = "min(max(scale) / max(height, width), min(scale) / min(height, width))"
        padded = "the next multiples of divisor"
    else:
        factor, padded = f"min({size[0]} / height, {size[1]} / width)", f"{size[0]} x {size[1]}"
    steps = [
        f"RGB, upright, 0-255, of height x width pixels. f = {factor}; h = max(1, int(height * f + 0.5)), "
        "w = max(1, int(width * f + 0.5)).",
        "If h x w differs from the size of the image, resize it like Pillow's BILINEAR, to whole numbers 0-255.",
        f"As float32 (3, h, w), pad at the bottom and at the right with the colour `padding` up to {padded}.",
        "Run the network; keep logits[:, :h, :w] of the image.",
        "Resize the logits to height x width, bilinear, with pixel centres at halves and no smoothing (torch's "
        "interpolate with align_corners=False, OpenCV's INTER_LINEAR).",
        "Add gamma to the logits of the classes in `unseen`. The class of a pixel is the argmax, an index into "
        "`classes`.",
    ]
    if evaluation.mode == "slide":
        steps[3] = (
            f"Do this for windows of {evaluation.window} pixels every {evaluation.stride}, each padded separately, "
            "with the last one of a row or column moved back to end at the image border; average overlapping logits."
        )
    return steps


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress messages and deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
