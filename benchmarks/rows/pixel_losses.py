"""A training step against one with logits of the image's size and a decoder that resizes all levels first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F

from benchmarks import resized_first
from benchmarks.full_size_losses import full_size_losses
from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import device
from cliptea import settings
from cliptea.method import plm
from cliptea.method.pixel_losses import pixel_losses
from cliptea.models.segformer import Decoder
from cliptea.training import loss_terms
from cliptea.training.batches import Batch
from cliptea.training.loss_terms import TextFeatures
from cliptea.training.trainer import Trainer
from cliptea.variant_groups import apply_delta

IMAGES, SEEN, REGIONS, DIM = 2, 59, 32, 512  # 91 classes
MEMORY = """
import json, re, sys
import torch
from benchmarks import resized_first
from benchmarks.full_size_losses import full_size_losses
from cliptea.method.pixel_losses import pixel_losses
torch.set_num_threads(1)
images, classes, side = map(int, sys.argv[2:])
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
losses = {"bands": pixel_losses, "full": full_size_losses}[sys.argv[1]]
for size in (16, side):  # small first, for the libraries
    logits = torch.randn(images, classes, size, size, requires_grad=True)
    labels = torch.randint(0, classes, (images, 6, 6)).repeat_interleave(size, 1).repeat_interleave(size, 2)
    labels = labels[:, : 4 * size, : 4 * size].contiguous()
    before = peak()
    losses(logits, labels, torch.ones(images, classes, dtype=torch.bool)).total.backward()
print(json.dumps({"mib": peak() - before}))
"""


def measure(bench: Bench) -> Iterator[Row]:
    """Three rows: the whole step, the share of the losses in it, and their memory."""
    side = 64 if bench.quick else 512
    batch = _batch(side)
    config = settings.load("pascal_context", ["data.root=.", "student.pretrained=false", f"teacher.crop={side}"])
    config = apply_delta(config, {"student": {"backbone": "segformer_b0"}, "train": {"batch_size": IMAGES}})
    step = Trainer(config, TextFeatures(F.normalize(torch.randn(SEEN, DIM), dim=1)), 0).step
    classes, size = SEEN + REGIONS, (side // 4, side // 4)
    logits = torch.randn(IMAGES, classes, *size, device=device(), requires_grad=True)
    labels, mask = (
        plm.pseudo_labels(*batch.to(logits.device)[1:3], batch.regions_Bgg.to(logits.device), SEEN).labels_BHW,
        torch.ones(IMAGES, classes, dtype=torch.bool, device=logits.device),
    )

    def full() -> None:
        losses = patch.object(loss_terms, "pixel_losses", full_size_losses)
        with losses, patch.object(Decoder, "forward", resized_first.segformer):
            step(batch)

    def alone() -> None:
        pixel_losses(logits, labels, mask).total.backward()

    works = partial(step, batch), full, alone
    for work in works:
        work()
    banded_seconds, full_seconds, loss_seconds = interleaved(bench.repeats, *works)
    what = f"segformer_b0, {side}x{side}, batch {IMAGES}, {classes} classes"
    yield Row(
        f"training step, {what}: as it is : with logits of full size and a decoder that resizes first",
        f"{median(banded_seconds):.3g} s",
        f"{median(full_seconds):.3g} s",
        speed(banded_seconds, full_seconds),
        1.8,
    )
    yield Row(
        f"share of pixel losses and upsampling in a step, {what}",
        f"{median(loss_seconds):.3g} s",
        f"{median(banded_seconds):.3g} s",
        speed(banded_seconds, loss_seconds),
        0.2,
        at_most=True,
    )
    banded, whole = (_memory(form, classes, size[0]) for form in ("bands", "full"))
    yield Row(
        f"memory of pixel losses, {what}: by bands : of full size",
        f"{banded:.0f} MiB",
        f"{whole:.0f} MiB",
        banded / max(whole, 1.0),  # the quick form adds nothing to the peak
        0.1,
        at_most=True,
        details={"logits_mib": logits.nbytes / 2**20},
    )


def _batch(side: int) -> Batch:
    """Half of the tokens are unlabelled, in 32 regions; eight classes share the others."""
    torch.manual_seed(0)
    grid, across = side // 16, torch.arange(side // 16)
    blocks_gg = (across[:, None] * 4 // grid) * 8 + across * 8 // grid  # 32
    free_gg = (across[:, None] + across) % 2 == 0
    labels_Bgg = blocks_gg // 4 + torch.arange(IMAGES)[:, None, None] * 8
    labels_Bgg = labels_Bgg.masked_fill(free_gg, 255)
    return Batch(
        torch.randn(IMAGES, 3, side, side),
        labels_Bgg.repeat_interleave(16, 1).repeat_interleave(16, 2),
        torch.ones(IMAGES, side, side, dtype=torch.bool),
        torch.randn(IMAGES, DIM),
        torch.where(free_gg, blocks_gg, 255).to(torch.uint8).expand(IMAGES, -1, -1).contiguous(),
        torch.zeros(IMAGES, 0, 0),
        torch.arange(IMAGES),
    )


def _memory(form: str, classes: int, side: int) -> float:
    """MiB that a forward and backward pass add to the peak of a new process."""
    command = [sys.executable, "-c", MEMORY, form, *map(str, (IMAGES, classes, side))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["mib"]
