"""The teacher step (decoding, CLIP, clustering, writing) against a bare loop of CLIP on tensors in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median

import torch

from benchmarks.measure import Bench, Row, environment, interleaved, speed
from benchmarks.world import Prepared, device, prepare, weights
from cliptea.config import ClusteringConfig
from cliptea.manifest import Output
from cliptea.messages import three_digits
from cliptea.storage import open_store
from cliptea.teacher.blocks import BLOCK, BlockMaker, Job
from cliptea.teacher.clip import open_teacher
from cliptea.teacher.outputs import ViewOutput
from cliptea.teacher.view_outputs import make_part

VIEWS = 4  # on a CPU, one at a time
WORKERS = 4  # processes on a GPU
ON_GPU = (
    "Teacher step on a GPU: in one process, decoding, hashing and writing take longer than CLIP. With "
    "`teacher.num_workers`, several processes share the work. Their rate is that of the second and third block of "
    "each, so that it does not include their start. Each view also writes 1 MiB of dense tokens to the disk."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Everything that a run makes of a view: CLS and dense tokens, and region maps of one setting."""
    where = torch.device(device())
    views, batch = (512, 32) if where.type == "cuda" else (VIEWS, 2 if bench.quick else 1)
    prepared = prepare(bench, views, f"teacher.batch_size={batch}")
    with environment(CLIPTEA_STORE=prepared.store):
        config = prepared.run.config
        teacher, side = open_teacher(str(weights(bench)), config.teacher), config.teacher.crop
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=where)
        valid = torch.ones(batch, side, side, dtype=torch.bool, device=where)
        normal = (pixels.float() / 255 - teacher.mean) / teacher.std

        def bare() -> None:
            for _ in range(views // batch):
                with torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
                    teacher.clip.encode_image(normal)
            if where.type == "cuda":
                torch.cuda.synchronize()

        makers = []
        for number in range(bench.repeats + 1):
            makers.append(BlockMaker(_job(bench, prepared, ("tokens", "dense", "regions"), str(number))))
            makers[-1].__dict__["_teacher"] = teacher  # loaded once, as for many blocks
        waiting = iter(makers)

        def step() -> None:
            next(waiting).make({0: range(views)}, lambda done: None)

        teacher.tokens(pixels, valid)
        step()
        ours, theirs = interleaved(bench.repeats, step, bare)
    memory = torch.cuda.max_memory_allocated() / 2**30 if where.type == "cuda" else None
    yield Row(
        f"teacher step, {views} views by {batch}",
        f"whole step: {three_digits(views / median(ours))} views/s",
        f"bare encode_image: {three_digits(views / median(theirs))} views/s",
        speed(ours, theirs),
        0.9,
        rates={"teacher": views / median(ours)},
        details={"memory_gib": memory, "side": side, "seconds": ours, "bare_seconds": theirs},
        note=ON_GPU if where.type == "cuda" else "",
    )
    if where.type == "cuda":
        yield from _with_workers(bench, batch, views / median(theirs))


def _with_workers(bench: Bench, batch: int, bare: float) -> Iterator[Row]:
    """Several processes on one GPU, with and without dense tokens, against `bare` views a second of CLIP alone."""
    photos, blocks = 512, 3 * WORKERS
    given = [
        f"teacher.batch_size={batch}",
        f"teacher.views={blocks * BLOCK // photos}",
        f"teacher.num_workers={WORKERS}",
    ]
    prepared = prepare(bench, photos, *given)
    for kinds in (("tokens", "regions"), ("tokens", "dense", "regions")):
        one, three = (_seconds(bench, prepared, kinds, parts) for parts in (3, 1))  # blocks of each process
        rate = 2 * WORKERS * BLOCK / (three - one)
        yield Row(
            f"teacher step, {WORKERS} processes on one GPU, {' and '.join(kinds)}",
            f"{three_digits(rate)} views/s",
            f"bare encode_image: {three_digits(bare)} views/s",
            rate / bare,
            0.9,
            details={"seconds_of_one_block": one, "seconds_of_three_blocks": three},
            note=ON_GPU,
        )


def _seconds(bench: Bench, prepared: Prepared, kinds: Sequence[str], parts: int) -> float:
    """The time of the first of some parts, in which nothing has been made yet."""
    with environment(CLIPTEA_STORE=prepared.store):
        job = _job(bench, prepared, kinds, f"{len(kinds)}-{parts}")
        start = time.perf_counter()
        make_part(job, 0, parts)
        return time.perf_counter() - start


def _job(bench: Bench, prepared: Prepared, kinds: Sequence[str], name: str) -> Job:
    outputs = (
        ViewOutput(Output(kind, f"bench{name}"), ClusteringConfig() if kind == "regions" else None) for kind in kinds
    )
    images = prepared.splits.own
    return Job(
        open_store(), prepared.run.config, images.objects, images.fingerprint, tuple(outputs), None, str(weights(bench))
    )
