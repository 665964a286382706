"""Decoders that project each level at its own size against those that resize and concatenate all levels first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks import resized_first
from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import device
from cliptea.models import build_student
from cliptea.models.student import EncoderDecoder

CLASSES, CHANNELS = 171, 512
NOTE = (
    "Decoders: UPerNet's convolutions over resized levels are 3x3. They do not commute with upsampling, so its levels "
    "cannot be projected at their own size with equal results."
)

Form = Callable[[Sequence[Tensor]], Tensor]


def measure(bench: Bench) -> Iterator[Row]:
    """Forward and backward pass of the decoders; for SegFormer, also from the levels to logits at test time."""
    side = 64 if bench.quick else 512
    segformer, segnext = (_student(name) for name in ("segformer_b0", "segnext_t"))
    sides = (
        ("SegFormer-B0", segformer, resized_first.segformer, 1.35),
        ("SegNeXt-T", segnext, resized_first.segnext, None),
    )
    for name, student, naive, goal in sides:
        maps = _maps(student, side, 2)
        own, other = interleaved(
            bench.repeats,
            lambda student=student, maps=maps: _train(student.decoder, maps),
            lambda student=student, maps=maps, form=naive: _train(lambda given: form(student.decoder, given), maps),
        )
        yield Row(
            f"decoder of {name} in training, {side}x{side}, batch 2: levels at their own size : resized first",
            f"{1000 * median(own):.0f} ms",
            f"{1000 * median(other):.0f} ms",
            speed(own, other),
            goal,
            note=NOTE,
        )
    yield _test_time(bench, segformer.eval(), side)


def _test_time(bench: Bench, student: EncoderDecoder, side: int) -> Row:
    text_ND = normalize(torch.randn(CLASSES, CHANNELS, device=device()), dim=1)
    (images, *maps), encoder = _maps(student, side, 1), student.encoder
    student.encoder = nn.Identity()

    def folded() -> None:
        student.logits([images, *maps], text_ND)  # pyright: ignore[reportArgumentType]

    def naive() -> None:
        torch.einsum("bdhw,nd->bnhw", student.head(resized_first.segformer(student.decoder, [images, *maps])), text_ND)

    with torch.inference_mode():
        own, other = interleaved(bench.repeats, folded, naive)
        student.encoder = encoder
        (whole,) = interleaved(bench.repeats, lambda: student.encoder(images))
    return Row(
        f"decoder of SegFormer-B0 at test time, {side}x{side}, {CLASSES} classes: folded : resized first",
        f"{1000 * median(own):.0f} ms (the encoder takes {1000 * median(whole):.0f} ms)",
        f"{1000 * median(other):.0f} ms",
        speed(own, other),
        1.7,
        note=NOTE,
    )


def _student(name: str) -> EncoderDecoder:
    student = build_student(name, CHANNELS).to(device())
    assert isinstance(student, EncoderDecoder)
    return student


def _maps(student: EncoderDecoder, side: int, batch: int) -> list[Tensor]:
    """What the encoder gives to the decoder."""
    with torch.no_grad():
        return [one.detach() for one in student.encoder(torch.randn(batch, 3, side, side, device=device()))]


def _train(form: Form, maps: Sequence[Tensor]) -> None:
    inputs = [one.clone().requires_grad_(one.numel() > 0) for one in maps]
    form(inputs).sum().backward()
    if device() == "cuda":
        torch.cuda.synchronize()
