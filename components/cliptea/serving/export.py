"""A student as an ONNX file that takes the class embeddings as an input, checked against torch before it is there.

Shape legend: B images, H, W size; N classes; D width; h, w output size of the student; C channels; P pooled size.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cliptea import progress
from cliptea.errors import ClipteaError, ConfigError
from cliptea.serving.files import write_whole
from cliptea.serving.segmenter import Segmenter
from cliptea.training.augment import IMAGE_MEAN, IMAGE_STD

__all__ = ["Exported", "check_onnx", "export_onnx"]

OPSET = 18
EXAMPLE = (3, 5)  # height and width in divisors; differing, so that nothing depends on a square
TRIED = ((2, 2, 2, 1), (1, 4, 3, 5), (1, 3, 5, 7), (3, 6, 2, 3))  # B, H and W in divisors, N
WINDOWED = {"SwinTransformerBlock", "SwinTransformerV2Block"}  # timm's
TOLERANCE = 1e-4  # of logits, relative to their largest where that is above 1
EQUAL_PIXELS = 0.999


class Exported(NamedTuple):
    """What the file takes, and how far it is from torch: logits at worst, and the share of equal pixels."""

    fixed: tuple[int, int] | None  # height and width, where the network allows one size only
    difference: float
    equal: float


def export_onnx(model: Segmenter, file: Path, size: tuple[int, int] | None = None) -> Exported:
    """Write `file`, and beside it one with the suffix .json: class names, unseen ones, gamma, embeddings and sizes.

    The network takes `images` (B, 3, H, W) float32 RGB 0-255 and `embeddings` (N, D) float32 of unit norm, and gives
    `logits` (B, N, H, W). H and W are multiples of the divisor: `cliptea predict` fits an image into the scale and pads
    it with the mean colour.

    Args:
        size: the only height and width that it takes; None: any, where the network can be exported so, else those of
            the scale.

    Raises:
        ConfigError: the size is no multiple of the divisor.
        ClipteaError: the network cannot be exported, or the file does not compute what torch does.
        StorageError: it cannot be written.
    """
    evaluation = model.description.evaluation
    if size is not None and any(edge % evaluation.divisor for edge in size):
        raise ConfigError(f"the size {size[0]}x{size[1]}", f"multiples of {evaluation.divisor}")
    network = _Network(model).eval()
    if size is None:
        try:
            return _export(model, network, file, None)
        except _NotExported as error:
            edge = -(-min(evaluation.scale) // evaluation.divisor) * evaluation.divisor
            size = edge, edge
            progress.warn(
                f"for images of any size: {error.what}; the file is made for {edge}x{edge} alone (see --size)"
            )
    return _export(model, network, file, size)


def check_onnx(data: bytes, network: nn.Module, dim: int, sizes: Sequence[tuple[int, int, int, int]]) -> Exported:
    """Compare an ONNX file with torch on random images and embeddings.

    Args:
        dim: D.
        sizes: B, H, W and N of each try.

    Raises:
        ClipteaError: onnxruntime refuses one, logits differ by more than 1e-4, or masks on more than 0.1 % of pixels.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(data, _options(), providers=["CPUExecutionProvider"])
        tries = [_try(session, network, dim, size) for size in sizes]
    except Exception as error:  # onnxruntime's are of many kinds, without a common one
        raise _NotExported(f"onnxruntime refuses the network ({_first_line(error)})") from error
    difference, equal = max(one[0] for one in tries), min(one[1] for one in tries)
    if difference > TOLERANCE or equal < EQUAL_PIXELS:
        raise _NotExported(
            f"ONNX and torch differ: logits by {difference:.1e}, masks on {1 - equal:.2%} of pixels",
            f"at most {TOLERANCE:.0e} and {1 - EQUAL_PIXELS:.1%}",
        )
    return Exported(None, difference, equal)


class _NotExported(ClipteaError):
    """The network cannot be exported in this way."""


class _Network(nn.Module):
    """Normalisation, student and product with the embeddings, on the CPU and made of what ONNX can express."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.student = _with_plain_pooling(copy.deepcopy(model.student).cpu().float())
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1))

    def forward(self, images_B3HW: Tensor, embeddings_ND: Tensor) -> Tensor:
        features_BDhw = self.student((images_B3HW - self.mean) / self.std)
        logits_BNhw = torch.einsum("bdhw,nd->bnhw", features_BDhw, embeddings_ND)
        return nn.functional.interpolate(logits_BNhw, images_B3HW.shape[2:], mode="bilinear", align_corners=False)


class _Pooling(nn.Module):
    """nn.AdaptiveAvgPool2d as two products with matrices: ONNX has none for an input of unknown size."""

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self._means(x_BChw.shape[2]) @ x_BChw @ self._means(x_BChw.shape[3]).T

    def _means(self, length: int) -> Tensor:
        """(P, length): row p is the mean from floor(p length / P) to ceil((p + 1) length / P), exclusive."""
        bin_P1, place_1L = torch.arange(self.pooled)[:, None], torch.arange(length)[None]
        starts, ends = bin_P1 * length // self.pooled, -(-(bin_P1 + 1) * length // self.pooled)
        inside = ((place_1L >= starts) & (place_1L < ends)).float()
        return inside / inside.sum(1, keepdim=True)


def _with_plain_pooling(student: nn.Module) -> nn.Module:
    for parent in list(student.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                setattr(parent, name, _Pooling(child.output_size))
    return student


def _export(model: Segmenter, network: nn.Module, file: Path, size: tuple[int, int] | None) -> Exported:
    data = _to_onnx(network, model, size)
    dim, divisor = model.description.dim, model.description.evaluation.divisor
    sizes = (
        [(b, h * divisor, w * divisor, n) for b, h, w, n in TRIED] if size is None else [(1, *size, n) for n in (1, 5)]
    )
    exported = check_onnx(data, network, dim, sizes)._replace(fixed=size)
    write_whole(file.with_suffix(".json"), _facts(model, size))
    write_whole(file, data)
    return exported


def _to_onnx(network: nn.Module, model: Segmenter, size: tuple[int, int] | None) -> bytes:
    divisor, dim = model.description.evaluation.divisor, model.description.dim
    height, width = size or (EXAMPLE[0] * divisor, EXAMPLE[1] * divisor)
    example = (torch.zeros(2, 3, height, width), torch.zeros(3, dim))
    if size is None and any(type(module).__name__ in WINDOWED for module in network.modules()):
        raise _NotExported("torch's exporter takes very long over shifted windows")
    any_size = torch.export.Dim.DYNAMIC
    free = {0: any_size} | ({2: any_size, 3: any_size} if size is None else {})
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                network,
                example,
                input_names=["images", "embeddings"],
                output_names=["logits"],
                dynamic_shapes=(free, {0: any_size}),
                opset_version=OPSET,
                verbose=False,
            )
            return program.model_proto.SerializeToString()
    except Exception as error:  # whatever torch finds that it cannot express, of many kinds
        raise _NotExported(f"torch cannot export the network ({_first_line(error)})") from error


def _try(session: Any, network: nn.Module, dim: int, size: tuple[int, int, int, int]) -> tuple[float, float]:
    """Largest difference of logits, relative to the largest logit where that is above 1, and share of equal pixels."""
    number, height, width, classes = size
    generator = torch.Generator().manual_seed(height * width)
    images = torch.rand(number, 3, height, width, generator=generator) * 255
    embeddings = nn.functional.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    with torch.inference_mode():
        ours = network(images, embeddings).numpy()
    (theirs,) = session.run(None, {"images": images.numpy(), "embeddings": embeddings.numpy()})
    difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))
    return difference, float((ours.argmax(1) == theirs.argmax(1)).mean())


def _facts(model: Segmenter, size: tuple[int, int] | None) -> bytes:
    description = model.description
    facts = {
        "inputs": "images: float32 RGB 0-255 (B, 3, H, W); embeddings: float32, unit norm (N, D)",
        "size": size,
        "divisor": description.evaluation.divisor,
        "scale": description.evaluation.scale,
        "gamma": description.evaluation.gamma,
        "classes": description.classes,
        "unseen": description.unseen,
        "embeddings": model.text_ND.tolist(),
    }
    return json.dumps(facts, ensure_ascii=False).encode()


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it refuses is told once, by us
    options.intra_op_num_threads = torch.get_num_threads()
    return options


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its progress and torch's own plans."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
