"""How fast a student segments images that are in memory, how much memory that takes, and how large the student is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cliptea.config import EvaluationConfig
from cliptea.cores import processor
from cliptea.evaluation.results import Inference
from cliptea.models.student import Student
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.inference import image_logits, rounded_up
from cliptea.segment.masks import make_mask
from cliptea.segment.stream import Loaded, each_image

__all__ = ["measure_inference"]

SECONDS = 2.0  # for each of the two measurements, in addition to a first, cold round
FEWEST, MOST = 3, 20  # rounds


def measure_inference(student: Student, text_ND: Tensor, settings: EvaluationConfig) -> Inference:
    """Measure latency, throughput and size at the size of evaluation: the short edge of `scale`, or a window.

    The latency is that of one image with all cores: the median over warm rounds, from pixels to a mask. The throughput
    is that of many images, divided among threads or in batches as evaluation does by itself: `batch_size` and `workers`
    do not count, so that speeds under the same conditions can be compared. A few seconds for a usual student.

    Args:
        student: in eval mode.
        text_ND: unit-norm text features of every class, on the student's device.
        settings: evaluation settings.
    """
    edge = settings.window if settings.mode == "slide" else min(settings.scale)
    height, width = rounded_up((edge, edge), settings.divisor)  # which the network sees
    square = settings.model_copy(update={"scale": (edge, edge), "batch_size": None, "workers": None})
    image = np.random.default_rng(0).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    gamma_N, where = torch.zeros(len(text_ND), device=text_ND.device), text_ND.device
    several = range(2 * torch.get_num_threads() if where.type == "cpu" else 64)

    def one() -> None:
        (logits,) = image_logits(student, [image], text_ND, square)
        make_mask(logits, gamma_N)

    def work(loaded: Loaded[int], logits: ImageLogits | None) -> None:
        assert logits is not None
        make_mask(logits, gamma_N)

    def many() -> None:
        for _ in each_image(student, text_ND, square, several, lambda number: Loaded(number, image), work, str):
            pass

    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    latency = _median_seconds(one)
    memory = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None
    return Inference(
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else processor(),
        threads=torch.get_num_threads(),
        precision=settings.precision,
        size=f"{height}x{width}",
        latency_ms=1000 * latency,
        images_per_second=len(several) / _median_seconds(many),
        peak_memory_mib=None if memory is None else memory / 2**20,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        gflops=_flops(student, (height, width), text_ND) / 1e9,
    )


def _median_seconds(work: Callable[[], None]) -> float:
    """Of warm rounds; the result of each round is on the CPU, so that nothing is still being computed."""
    work()
    seconds: list[float] = []
    while len(seconds) < FEWEST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)


@torch.no_grad()
def _flops(student: Student, size: tuple[int, int], text_ND: Tensor) -> int:
    """Floating point operations of the network for one image, where a multiplication and an addition are two."""
    images_13HW = torch.zeros(1, 3, *size, device=text_ND.device)
    with _plain_attention(), FlopCounterMode(display=False) as counter:
        student.logits(images_13HW, text_ND)
    return counter.get_total_flops()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as products of matrices, because some fused forms are not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
