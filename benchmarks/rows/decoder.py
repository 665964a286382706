"""SegFormer's decoder with levels at their own size against the one that concatenates them at the largest size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import segmentation_models_pytorch as smp
import torch
from torch import nn

from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import device
from cliptea.models.segformer import Decoder


def measure(bench: Bench) -> Iterator[Row]:
    """Of SegFormer-B0, batch 2: forward and backward in training, and forward alone at test time."""
    where, side = device(), 64 if bench.quick else 512
    network = smp.Segformer("mit_b0", encoder_weights=None, classes=1, decoder_segmentation_channels=256).to(where)
    theirs = network.decoder
    ours = Decoder(theirs)
    with torch.no_grad():
        maps = [one.detach() for one in network.encoder(torch.randn(2, 3, side, side, device=where))]
    for one in maps[2:]:
        one.requires_grad_(True)

    def training(decoder: nn.Module) -> Callable[[], None]:
        def work() -> None:
            decoder(list(maps)).square().mean().backward()
            _wait(where)

        return work

    def forward(decoder: nn.Module) -> Callable[[], None]:
        def work() -> None:
            with torch.inference_mode():
                decoder(list(maps))
            _wait(where)

        return work

    for what, make, goal in (("training", training, 1.35), ("forward", forward, None)):
        theirs.train(what == "training")
        ours.train(what == "training")
        works = make(ours), make(theirs)
        for work in works:
            work()
        first, second = interleaved(bench.repeats, *works)
        yield Row(
            f"SegFormer-B0's decoder, {what}, {side}x{side}, batch 2, {where}",
            f"levels at their own size: {1000 * median(first):.3g} ms",
            f"concatenated: {1000 * median(second):.3g} ms",
            speed(first, second),
            goal,
        )


def _wait(where: str) -> None:
    if where == "cuda":
        torch.cuda.synchronize()
