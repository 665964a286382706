"""A network in the formats of other runtimes: ONNX, OpenVINO and torch.export.

Shape legend: B images, H, W size; N classes; D width.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cliptea.errors import refuse_system
from cliptea.serving.choices import Output
from cliptea.serving.parity import INPUTS, NotExported, Run, first_line

__all__ = [
    "Shapes", "as_openvino", "as_torch_export", "openvino_files", "openvino_runner", "program_file",
    "to_onnx", "torch_runner", "with_facts",
]  # fmt: skip

FACTS = "cliptea"  # key of our facts in the metadata of a file
OPSET = 18
EXAMPLE = (3, 5)  # height and width in multiples of the divisor; not a square, to find code that assumes one
MOST = 1 << 14  # maximum height and width, pixels


class Shapes(NamedTuple):
    """The shapes that an exported network accepts."""

    divisor: int  # of H and W
    size: tuple[int, int] | None  # the only H and W; None: any
    dim: int | None  # D; None: the classes are fixed, and there are no embeddings


def to_onnx(network: nn.Module, shapes: Shapes, output: Output) -> bytes:
    """The network as an ONNX file.

    Raises:
        NotExported: torch cannot export it for these shapes.
    """
    example, dynamic = _example(shapes)
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                network,
                example,
                input_names=INPUTS[: len(example)],
                output_names=[output],
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                verbose=False,
            )
            return program.model_proto.SerializeToString()
    except Exception as error:  # torch raises many kinds of errors for unsupported networks
        refuse_system(error, "torch cannot export the network")
        raise NotExported(f"torch cannot export the network ({first_line(error)})") from error


def with_facts(data: bytes, facts: Mapping[str, Any]) -> bytes:
    """The ONNX file with our facts in its metadata."""
    import onnx

    model = onnx.load_from_string(data)
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts, ensure_ascii=False)})
    return model.SerializeToString()


def as_torch_export(network: nn.Module, shapes: Shapes) -> Any:
    """The network as a program of `torch.export`.

    Raises:
        NotExported: torch cannot export it for these shapes.
    """
    example, dynamic = _example(shapes)
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(network, example, dynamic_shapes=dynamic)
    except Exception as error:  # as above
        refuse_system(error, "torch cannot export the network")
        raise NotExported(f"torch cannot export the network ({first_line(error)})") from error


def program_file(program: Any, facts: Mapping[str, Any]) -> bytes:
    """The content of a .pt2 file, with our facts as an extra file."""
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={FACTS: json.dumps(facts, ensure_ascii=False)})
    return stream.getvalue()


def torch_runner(data: bytes) -> Run:
    """Runs a .pt2 file on the CPU."""
    module = torch.export.load(io.BytesIO(data)).module()

    def run(*inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs)).numpy()

    return run


@cache
def openvino_core() -> Any:
    """The one Core of this process.

    The processor's plugin of each Core sets a stack for signals. If a second Core outlives the first, it puts the
    first one's stack back, which is freed by then, and the next signal ends the process (OpenVINO 2026.4).
    """
    import openvino  # pyright: ignore[reportMissingImports]

    return openvino.Core()


def as_openvino(data: bytes) -> Any:
    """An ONNX file as a model of OpenVINO.

    Raises:
        NotExported: OpenVINO cannot read it.
    """
    try:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(data)
            return openvino_core().read_model(file)
    except Exception as error:  # OpenVINO's errors have no common base class
        refuse_system(error, "OpenVINO cannot read the network")
        raise NotExported(f"OpenVINO cannot read the network ({first_line(error)})") from error


def openvino_files(model: Any, facts: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The content of the .xml and the .bin file, with our facts in the first one."""
    import openvino  # pyright: ignore[reportMissingImports]

    model.set_rt_info(json.dumps(facts, ensure_ascii=False), FACTS)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.xml"
        openvino.serialize(model, file)
        return file.read_bytes(), file.with_suffix(".bin").read_bytes()


def openvino_runner(model: Any) -> Run:
    """Runs a model of OpenVINO on the CPU with float32 arithmetic, unless the model itself is of lower precision.

    Raises:
        NotExported: OpenVINO cannot compile it.
    """
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        compiled = openvino_core().compile_model(model, "CPU", settings)
    except Exception as error:  # as above
        refuse_system(error, "OpenVINO cannot run the network")
        raise NotExported(f"OpenVINO cannot run the network ({first_line(error)})") from error
    return lambda *inputs: np.asarray(compiled(list(inputs))[0])


def _example(shapes: Shapes) -> tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...]]:
    """Inputs to trace the network with, and their free dimensions."""
    divisor = shapes.divisor
    height, width = shapes.size or (EXAMPLE[0] * divisor, EXAMPLE[1] * divisor)
    free: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if shapes.size is None:  # declared as multiples, which makes torch's computations of shapes shorter
        free |= {
            axis: divisor * torch.export.Dim(name, min=1, max=MOST // divisor) for axis, name in ((2, "h"), (3, "w"))
        }
    images = torch.zeros(2, 3, height, width)
    if shapes.dim is None:
        return (images,), (free,)
    return (images, torch.zeros(3, shapes.dim)), (free, {0: torch.export.Dim.DYNAMIC})


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
