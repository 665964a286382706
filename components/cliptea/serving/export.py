"""Exports a student for other runtimes, and compares the file with torch before it writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cliptea import progress
from cliptea.errors import ConfigError
from cliptea.finite import require_finite
from cliptea.messages import number_of
from cliptea.segment.inference import rounded_up
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving import formats
from cliptea.serving.choices import Format, Output, Precision, require_choices
from cliptea.serving.export_facts import export_facts
from cliptea.serving.export_files import write_export
from cliptea.serving.formats import Shapes
from cliptea.serving.graph import NamedNetwork, Network
from cliptea.serving.lower_precision import lowered
from cliptea.serving.measured import Measured, measure
from cliptea.serving.parity import NotExported, Parity, Run, Shape, check, check_onnx, compare, onnx_runner
from cliptea.serving.photos import Photo, read_image
from cliptea.serving.standalone import fit, pieces

__all__ = ["MOST_PHOTOS", "Exported", "Form", "export_model"]

TRIED = ((2, 2, 2, 1), (1, 4, 3, 5), (1, 3, 5, 7), (3, 6, 2, 3))  # B, H and W in multiples of the divisor, N
MOST_PHOTOS = 64  # of which every other one calibrates int8, and the others measure
LOW_AGREEMENT = 0.98


class Form(NamedTuple):
    """What to export."""

    format: Format = "onnx"
    size: tuple[int, int] | None = None  # fixed height and width; None: any, if the network can be exported like this
    classes: ClassSet | None = None  # that the network is fixed to; None: their embeddings are an input
    output: Output = "logits"  # another one needs `classes`
    precision: Precision = "float32"
    photos: Sequence[Photo] = ()  # to measure with, and to calibrate int8; none: random images


PLAIN = Form()


class Exported(NamedTuple):
    """The only size of the file's input, if there is one, and its difference from torch."""

    fixed: tuple[int, int] | None  # height and width
    parity: Parity  # before the precision was lowered
    measured: Measured


class _Made(NamedTuple):
    """An exported network in memory."""

    model: Any  # ONNX file, program of torch.export, or model of OpenVINO
    run: Run
    parity: Parity
    measured: Measured


def export_model(model: Segmenter, file: Path, form: Form = PLAIN) -> Exported:
    """Write `file` (for OpenVINO, also its weights with the suffix .bin), and a file with the suffix .json.

    The .json file contains class names, sizes, and what was measured.

    The network takes `images` (B, 3, H, W) float32 RGB 0-255, H and W multiples of the divisor. Unless its classes are
    fixed, it also takes `embeddings` (N, D) float32 of unit norm. It returns logits (B, N, H, W) or another output. The
    `steps` in the .json file explain how to get the mask that `cliptea predict` writes for an image of any size.

    Raises:
        ConfigError: the size is not a multiple of the divisor, or the parts of the form do not fit together.
        DataError: a photo cannot be read.
        NotFinite: a logit is NaN or infinite.
        ClipteaError: the network cannot be exported, or the file gives other results than torch.
        StorageError: it cannot be written.
    """
    require_choices(form.format, form.output, form.precision, named=form.classes is not None, photos=bool(form.photos))
    evaluation, size = model.description.evaluation, form.size
    if size is not None and any(edge % evaluation.divisor for edge in size):
        raise ConfigError(f"the size {size[0]}x{size[1]} does not fit the model", f"multiples of {evaluation.divisor}")
    network: nn.Module = Network(model)
    if form.classes is not None:
        network = NamedNetwork(network, form.classes, form.output)
    network.eval()
    try:
        made = _make(model, network, form, size)
    except NotExported as error:
        if size is not None:
            raise
        size = rounded_up((min(evaluation.scale),) * 2, evaluation.divisor)
        progress.warn(
            f"cannot export for images of any size: {error.what}; exporting for {size[0]}x{size[1]} only "
            "(change it with --size)"
        )
        made = _make(model, network, form, size)
    if made.measured.equal < LOW_AGREEMENT:
        progress.warn(f"{1 - made.measured.equal:.1%} of pixels have another class than with PyTorch")
    facts = export_facts(model, size, form.classes, form.output)
    facts |= {"precision": form.precision, "measured": made.measured.facts}
    write_export(file, _files(form.format, made.model, facts), facts)
    return Exported(size, made.parity, made.measured)


def _make(model: Segmenter, network: nn.Module, form: Form, size: tuple[int, int] | None) -> _Made:
    dim = model.description.dim if form.classes is None else None
    shapes = Shapes(model.description.evaluation.divisor, size, dim)
    tests = _tests(shapes)
    calibrating, inputs, told = _inputs(model, form, size)
    logits = None
    if form.classes is not None and form.output != "logits":  # in which NaN or infinity may not show
        logits = NamedNetwork(Network(model), form.classes, "logits").eval()
        _require_finite(logits, inputs)
    if form.format == "torch-export":
        program = formats.as_torch_export(network, shapes)
        run = formats.torch_runner(formats.program_file(program, {}))
        parity = check(run, "torch.export", network, dim, tests)
        return _Made(program, run, parity, measure(run, "torch.export", network, inputs, told))
    data = formats.to_onnx(network, shapes, form.output)
    parity = check_onnx(data, network, dim, tests)
    data = lowered(data, form.precision, calibrating)
    made, run, name = _converted(data, form.format)
    if form.format == "openvino" and form.precision == "float32":
        parity = check(run, name, network, dim, tests)
    if logits is not None and (form.format == "openvino" or form.precision != "float32"):
        shown = lowered(formats.to_onnx(logits, shapes, "logits"), form.precision, calibrating)
        _, logits_run, _ = _converted(shown, form.format)
        for one in inputs:
            compare(logits_run, name, logits, one)
    return _Made(made, run, parity, measure(run, name, network, inputs, told))


def _converted(data: bytes, format: Format) -> tuple[Any, Run, str]:
    """An ONNX file, or a model of OpenVINO made from it, with what runs it and its name."""
    if format == "onnx":
        return data, onnx_runner(data), "ONNX"
    model = formats.as_openvino(data)
    return model, formats.openvino_runner(model), "OpenVINO"


@torch.inference_mode()
def _require_finite(logits: nn.Module, inputs: Sequence[Sequence[np.ndarray]]) -> None:
    for one in inputs:
        require_finite({"a logit": logits(*map(torch.from_numpy, one))}, "the network", "train the model again")


def _tests(shapes: Shapes) -> list[Shape]:
    if shapes.size is not None:
        return [(1, *shapes.size, number) for number in (1, 5)]
    return [(b, h * shapes.divisor, w * shapes.divisor, n) for b, h, w, n in TRIED]


def _inputs(
    model: Segmenter, form: Form, size: tuple[int, int] | None
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], str]:
    """The network's inputs for calibration and those for measuring, and what the latter are."""
    facts = export_facts(model, size, form.classes, form.output)
    text = [] if form.classes is not None else [model.text_ND.cpu().float().numpy()]
    if not form.photos:
        edge = rounded_up((min(facts["scale"]),) * 2, facts["divisor"])
        image = torch.rand(1, 3, *(size or edge), generator=torch.Generator().manual_seed(0)) * 255
        return [], [[image.numpy(), *text]], "one random image"
    step = -(-len(form.photos) // MOST_PHOTOS)
    inputs = [
        [[padded, *text] for _, padded in pieces(fit(read_image(photo), facts), facts)] for photo in form.photos[::step]
    ]
    calibrating, others = inputs[::2], inputs[1::2]
    if form.precision != "int8":
        calibrating, others = [], inputs
    told = number_of(len(others), "image")
    if not others:
        others, told = calibrating, "the one image that int8 was calibrated with"
    return _joined(calibrating), _joined(others), told


def _joined(parts: Sequence[list[list[np.ndarray]]]) -> list[list[np.ndarray]]:
    return [one for part in parts for one in part]


def _files(format: Format, model: Any, facts: dict[str, Any]) -> dict[str, bytes]:
    """The content of the exported files, without the facts, by suffix."""
    told = {name: fact for name, fact in facts.items() if name != "embeddings"}
    if format == "torch-export":
        return {".pt2": formats.program_file(model, told)}
    if format == "openvino":
        xml, weights = formats.openvino_files(model, told)
        return {".bin": weights, ".xml": xml}
    return {".onnx": formats.with_facts(model, told)}
