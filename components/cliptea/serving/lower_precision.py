"""ONNX files with half or quarter of the bits: float16, or int8 that is calibrated on images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cliptea.errors import refuse_system
from cliptea.serving.choices import Precision
from cliptea.serving.parity import INPUTS, NotExported, first_line

__all__ = ["lowered"]

QUANTISED = ["Conv", "Gemm", "MatMul"]  # nearly all of the work; everything else stays float32


def lowered(data: bytes, precision: Precision, inputs: Sequence[Sequence[np.ndarray]]) -> bytes:
    """The ONNX file in another precision. Its inputs and its output keep their types.

    Args:
        inputs: those of the network for each calibration image, which int8 needs.

    Raises:
        NotExported: onnxruntime's tools cannot convert the network.
    """
    if precision == "float32":
        return data
    try:
        with _quiet():
            return _half(data) if precision == "float16" else _quantised(data, inputs)
    except Exception as error:  # the tools' errors have no common base class
        refuse_system(error, f"onnxruntime cannot convert the network to {precision}")
        raise NotExported(f"onnxruntime cannot convert the network to {precision} ({first_line(error)})") from error


def _half(data: bytes) -> bytes:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True).SerializeToString()


def _quantised(data: bytes, inputs: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Static quantisation: the range of each tensor is what the calibration images reach."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            one = next(self._left, None)
            return None if one is None else dict(zip(INPUTS, one, strict=False))

    with TemporaryDirectory() as folder:
        plain, folded, small = (Path(folder) / name for name in ("plain.onnx", "folded.onnx", "small.onnx"))
        plain.write_bytes(data)
        # Folds constants, such as the product of the last convolution with the embeddings.
        quant_pre_process(str(plain), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(small),
            Reader(),
            op_types_to_quantize=QUANTISED,
            per_channel=True,
            reduce_range=True,  # 7 bits for weights, as sums of 8-bit products overflow on processors without VNNI
        )
        return small.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the advice of onnxruntime's tools, which log to the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
