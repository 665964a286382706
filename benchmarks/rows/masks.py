"""Masks from bands of rows against logits that are enlarged as a whole: time, and memory at the most."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import device
from cliptea.segment.enlarge import Logits
from cliptea.segment.masks import make_mask

CLASSES = 171  # COCO-Stuff's
MEMORY = """
import json, re, sys
from benchmarks.rows import masks
def high():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
quick, banded = json.loads(sys.argv[1])
logits, gamma_N = masks.example(quick, "cpu")
form = masks.make_mask if banded else masks.whole
before = high()
form(logits, gamma_N)
print(high() - before)
"""


def measure(bench: Bench) -> Iterator[Row]:
    """A photo of 1200x1600 pixels that is fitted to 512x683; the memory is that of a process of its own."""
    logits, gamma_N = example(bench.quick, device())
    assert (make_mask(logits, gamma_N) == whole(logits, gamma_N)).all()
    first, second = interleaved(
        bench.repeats, lambda: make_mask(logits, gamma_N), lambda: whole(logits, gamma_N)
    )  # fmt: skip
    what = f"masks of {logits.size[0]}x{logits.size[1]} pixels, {CLASSES} classes"
    yield Row(
        f"{what}, {device()}: time",
        f"bands: {median(first):.3g} s",
        f"whole: {median(second):.3g} s",
        speed(first, second),
        1.3,
    )
    bands, at_once = _memory(bench.quick, True), _memory(bench.quick, False)
    ratio = bands / at_once if at_once else 0.0
    yield Row(f"{what}: memory", f"bands: {bands:.0f} MiB", f"whole: {at_once:.0f} MiB", ratio, 0.05, at_most=True)


def example(quick: bool, where: str) -> tuple[Logits, Tensor]:
    """Random logits, and a gamma for each class."""
    generator = torch.Generator().manual_seed(0)
    size, padded, fitted = ((30, 40), (32, 64), (32, 43)) if quick else ((1200, 1600), (512, 704), (512, 683))
    small_Nhw = torch.randn(CLASSES, padded[0] // 4, padded[1] // 4, generator=generator)
    return Logits(small_Nhw.to(where), padded, fitted, size), torch.linspace(0, 0.5, CLASSES).to(where)


def whole(logits: Logits, gamma_N: Tensor) -> np.ndarray:
    """All logits at the image's size at once."""
    maps_NHW = logits.small_Nhw
    for size, shown in ((logits.padded, logits.fitted), (logits.size, logits.size)):
        maps_NHW = nn.functional.interpolate(maps_NHW[None], size, mode="bilinear", align_corners=False)[0]
        maps_NHW = maps_NHW[:, : shown[0], : shown[1]]
    return (maps_NHW + gamma_N[:, None, None]).argmax(0).to(torch.uint8).cpu().numpy()


def _memory(quick: bool, banded: bool) -> float:
    """MiB beyond what the process held before."""
    command = [sys.executable, "-c", MEMORY, json.dumps([quick, banded])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
