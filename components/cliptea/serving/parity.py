"""Checks whether an ONNX file gives the same results as torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from cliptea.errors import ClipteaError, NotFinite

__all__ = ["NotExported", "Parity", "check_onnx", "first_line"]

TOLERANCE = 1e-4  # of logits, relative to the largest logit if that is above 1
EQUAL_PIXELS = 0.999


class Parity(NamedTuple):
    """The difference between ONNX and torch: the largest difference of logits, and the share of equal pixels."""

    difference: float
    equal: float


class NotExported(ClipteaError):
    """The network cannot be exported in this way."""


def check_onnx(data: bytes, network: nn.Module, dim: int, sizes: Sequence[tuple[int, int, int, int]]) -> Parity:
    """Compare an ONNX file with torch on random images and embeddings.

    Args:
        dim: D.
        sizes: B, H, W and N of each test.

    Raises:
        NotFinite: a logit is NaN or infinite.
        ClipteaError: onnxruntime fails, logits differ by more than 1e-4, or masks differ in more than 0.1 % of pixels.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # we report its errors ourselves
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        tries = [_try(session, network, dim, size) for size in sizes]
    except NotFinite:
        raise
    except Exception as error:  # onnxruntime's errors have no common base class
        raise NotExported(f"onnxruntime cannot run the network ({first_line(error)})") from error
    difference, equal = max(one[0] for one in tries), min(one[1] for one in tries)
    if not (difference <= TOLERANCE and equal >= EQUAL_PIXELS):  # which NaN fails too
        raise NotExported(
            f"ONNX and PyTorch differ: logits by {difference:.1e}, masks in {1 - equal:.2%} of pixels",
            f"at most {TOLERANCE:.0e} and {1 - EQUAL_PIXELS:.1%}",
        )
    return Parity(difference, equal)


def _try(session: Any, network: nn.Module, dim: int, size: tuple[int, int, int, int]) -> tuple[float, float]:
    """Largest difference of logits, relative to the largest logit if that is above 1, and share of equal pixels."""
    number, height, width, classes = size
    generator = torch.Generator().manual_seed(height * width)
    images = torch.rand(number, 3, height, width, generator=generator) * 255
    embeddings = nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    with torch.inference_mode():
        ours = network(images, embeddings).numpy()
    (theirs,) = session.run(None, {"images": images.numpy(), "embeddings": embeddings.numpy()})
    for name, logits in (("PyTorch", ours), ("ONNX", theirs)):
        if not np.isfinite(logits).all():
            raise NotFinite(f"the logits of {name} hold NaN or infinity", "finite logits", "train the model again")
    difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))
    return difference, float((ours.argmax(1) == theirs.argmax(1)).mean())


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
