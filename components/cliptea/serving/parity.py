"""Checks whether an exported file gives the same results as torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from cliptea.errors import ClipteaError, NotFinite, refuse_system

__all__ = [
    "INPUTS", "NotExported", "Parity", "Run", "Shape", "check", "check_onnx", "compare", "first_line", "onnx_runner",
]  # fmt: skip

TOLERANCE = 1e-4  # of logits, relative to the largest logit if that is above 1
EQUAL_PIXELS = 0.999
INPUTS = ("images", "embeddings")  # their names; the second one is missing if the classes are fixed

Run = Callable[..., np.ndarray]  # computes the output for images and, unless the classes are fixed, embeddings
Shape = tuple[int, int, int, int]  # B, H, W and N of a test


class Parity(NamedTuple):
    """The difference of a file from torch: the largest difference of logits, and the share of equal pixels."""

    difference: float
    equal: float


class NotExported(ClipteaError):
    """The network cannot be exported in this way."""


def check_onnx(data: bytes, network: nn.Module, dim: int | None, shapes: Sequence[Shape]) -> Parity:
    """`check` for an ONNX file.

    Raises:
        ClipteaError: as for `check`, or onnxruntime fails.
    """
    return check(onnx_runner(data), "ONNX", network, dim, shapes)


def check(run: Run, name: str, network: nn.Module, dim: int | None, shapes: Sequence[Shape]) -> Parity:
    """Compare an exported network with torch on random images and embeddings.

    Args:
        run: the exported network.
        name: what runs it, for errors.
        dim: D; None if the classes are fixed.

    Raises:
        NotFinite: a logit is NaN or infinite.
        ClipteaError: it fails, logits differ by more than 1e-4, or masks differ in more than 0.1 % of pixels.
    """
    tries = [compare(run, name, network, _random(dim, shape)) for shape in shapes]
    difference, equal = max(one.difference for one in tries), min(one.equal for one in tries)
    if not (difference <= TOLERANCE and equal >= EQUAL_PIXELS):  # which NaN fails too
        raise NotExported(
            f"{name} and PyTorch differ: logits by {difference:.1e}, masks in {1 - equal:.2%} of pixels",
            f"at most {TOLERANCE:.0e} and {1 - EQUAL_PIXELS:.1%}",
        )
    return Parity(difference, equal)


def compare(run: Run, name: str, network: nn.Module, inputs: Sequence[np.ndarray]) -> Parity:
    """Largest difference of logits, relative to the largest logit if that is above 1, and share of equal pixels.

    The difference of an output of classes is 0.

    Raises:
        NotFinite: a logit is NaN or infinite.
        NotExported: the exported network fails.
    """
    with torch.inference_mode():
        ours = network(*map(torch.from_numpy, inputs)).numpy()
    try:
        theirs = run(*inputs)
    except Exception as error:  # the libraries' errors have no common base class
        refuse_system(error, f"{name} cannot run the network")
        raise NotExported(f"{name} cannot run the network ({first_line(error)})") from error
    other = "choose another format or --precision float32"
    for made_by, output, todo in (("PyTorch", ours, "train the model again"), (name, theirs, other)):
        if not np.isfinite(output).all():
            raise NotFinite(f"the logits of {made_by} hold NaN or infinity", "finite logits", todo)
    if ours.dtype == np.uint8:
        return Parity(0.0, float((ours == theirs).mean()))
    difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))
    return Parity(difference, float((ours.argmax(1) == theirs.argmax(1)).mean()))


def onnx_runner(data: bytes) -> Run:
    """Runs an ONNX file on the CPU.

    Raises:
        NotExported: onnxruntime cannot read it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # we report its errors ourselves
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        refuse_system(error, "onnxruntime cannot read the network")
        raise NotExported(f"onnxruntime cannot read the network ({first_line(error)})") from error

    def run(*inputs: np.ndarray) -> np.ndarray:
        (output,) = session.run(None, dict(zip(INPUTS, inputs, strict=False)))
        return np.asarray(output)

    return run


def _random(dim: int | None, shape: Shape) -> list[np.ndarray]:
    number, height, width, classes = shape
    generator = torch.Generator().manual_seed(height * width)
    images = torch.rand(number, 3, height, width, generator=generator) * 255
    if dim is None:
        return [images.numpy()]
    embeddings = nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    return [images.numpy(), embeddings.numpy()]


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
