"""Exported networks against torch: the time of one image, and the agreement of the masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch

from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import CLASSES, random_model
from cliptea.config import EvaluationConfig
from cliptea.messages import three_digits
from cliptea.serving.choices import SUFFIXES, Format
from cliptea.serving.export import Form, export_model
from cliptea.serving.formats import openvino_runner, torch_runner
from cliptea.serving.graph import NamedNetwork, Network
from cliptea.serving.parity import Run, compare, onnx_runner

NOTE = "Exports: networks with fixed classes, of any size, in float32 on the CPU; both sides return logits."


def measure(bench: Bench) -> Iterator[Row]:
    """SegFormer-B0 at 512x512 (in quick runs, something tiny at 64x64) in each format, opened from its file."""
    side, backbone = (64, "demo_fpn") if bench.quick else (512, "segformer_b0")
    model = random_model(backbone, side, EvaluationConfig(scale=(4 * side, side)))
    classes = model.known()
    network = NamedNetwork(Network(model), classes, "logits").eval()
    image = np.random.default_rng(0).integers(0, 256, (1, 3, side, side)).astype(np.float32)
    for format in get_args(Format):
        file = bench.folder / f"exports/model{SUFFIXES[format]}"
        export_model(model, file, Form(format, classes=classes))
        run = _opened(format, file)
        parity = compare(run, format, network, [image])
        run(image)
        own, other = interleaved(4 * bench.repeats, partial(run, image), partial(_with_torch, network, image))
        yield Row(
            f"one image of {side}x{side}, {backbone}, {CLASSES} classes, cpu: export as {format} : torch",
            f"{three_digits(1000 * median(own))} ms; {parity.equal:.4%} of pixels equal",
            f"{three_digits(1000 * median(other))} ms",
            speed(own, other),
            details={"equal_pixels": parity.equal, "difference": parity.difference},
            note=NOTE,
        )


def _opened(format: Format, file: Path) -> Run:
    if format == "openvino":
        import openvino  # pyright: ignore[reportMissingImports]

        return openvino_runner(openvino.Core().read_model(file))
    return onnx_runner(file.read_bytes()) if format == "onnx" else torch_runner(file.read_bytes())


@torch.inference_mode()
def _with_torch(network: NamedNetwork, image: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(image)).numpy()
