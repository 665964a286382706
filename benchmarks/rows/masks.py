"""Masks from the logits of a few classes at a time, against masks from all logits at once: time and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.whole_logits import whole_logits
from benchmarks.world import device
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import make_mask

CLASSES = 171  # COCO-Stuff's
SIZE = 1200, 1600  # of the photo, which is fitted to 512 x 683 pixels and padded to 512 x 704
MEMORY = """
import re, sys
import torch
from benchmarks.rows import masks
torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
form = {"groups": masks.make_mask, "whole": masks.whole_mask}[sys.argv[1]]
form(*masks.example(16, "cpu"))  # small first, for the libraries
logits, gamma_N = masks.example(int(sys.argv[2]), "cpu")
before = peak()
form(logits, gamma_N)
print(peak() - before)
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Two rows. The memory is measured in a process of its own on the CPU."""
    part = 16 if bench.quick else 1
    logits, gamma_N = example(part, device())
    works = partial(make_mask, logits, gamma_N), partial(whole_mask, logits, gamma_N)
    equal = bool((works[0]() == works[1]()).all())
    grouped_seconds, whole_seconds = interleaved(bench.repeats, *works)
    what = f"{CLASSES} classes, {logits.size[0]}x{logits.size[1]}"
    yield Row(
        f"masks, {what}, {device()}: in groups of classes : all logits at once",
        f"{median(grouped_seconds):.3g} s",
        f"{median(whole_seconds):.3g} s",
        speed(grouped_seconds, whole_seconds),
        1.3,
        details={"equal": equal},
    )
    grouped, whole = (_memory(form, part) for form in ("groups", "whole"))
    yield Row(
        f"memory of masks, {what}: in groups of classes : all logits at once",
        f"{grouped:.0f} MiB",
        f"{whole:.0f} MiB",
        grouped / max(whole, 1.0),  # the quick form adds nothing to the peak
        0.1,
        at_most=True,
    )


def example(part: int, where: str) -> tuple[ImageLogits, Tensor]:
    """Random logits at stride 4 and gammas, with sizes divided by `part`."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(height // part, width // part) for height, width in ((128, 176), (512, 704), (512, 683), SIZE)]
    small_Nhw = torch.randn(CLASSES, *sizes[0], generator=generator)
    return ImageLogits(small_Nhw.to(where), *sizes[1:]), torch.linspace(0, 0.5, CLASSES).to(where)


def whole_mask(logits: ImageLogits, gamma_N: Tensor) -> np.ndarray:
    """What `make_mask` gives."""
    return (whole_logits(logits) + gamma_N[:, None, None]).argmax(0).to(torch.uint8).cpu().numpy()


def _memory(form: str, part: int) -> float:
    """MiB that one mask adds to the peak of a new process."""
    command = [sys.executable, "-c", MEMORY, form, str(part)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
