"""The teacher step (decoding, CLIP, clustering, writing) against a bare loop of CLIP on tensors in memory."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch

from benchmarks.measure import Bench, Row, environment, interleaved, speed
from benchmarks.world import device, prepare, weights
from cliptea.config import ClusteringConfig
from cliptea.manifest import Output
from cliptea.storage import open_store
from cliptea.teacher.blocks import BlockMaker, Job
from cliptea.teacher.clip import open_teacher
from cliptea.teacher.outputs import ViewOutput

VIEWS = 4  # on a CPU, one at a time
ON_GPU = (
    "Teacher step on a GPU: the loop runs in one process, in which decoding, clustering, hashing and writing take "
    "longer than CLIP. `teacher.num_workers` lets several processes share the work, which was not measured."
)


def measure(bench: Bench) -> Iterator[Row]:
    """Everything that a run makes of a view: CLS and dense tokens, and region maps of one setting."""
    where = torch.device(device())
    views, batch = (512, 32) if where.type == "cuda" else (VIEWS, 2 if bench.quick else 1)
    prepared = prepare(bench, views, f"teacher.batch_size={batch}")
    with environment(CLIPTEA_STORE=prepared.store):
        store, config, images = open_store(), prepared.run.config, prepared.splits.own
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
            outputs = tuple(
                ViewOutput(Output(kind, f"bench{number}"), ClusteringConfig() if kind == "regions" else None)
                for kind in ("tokens", "dense", "regions")
            )
            job = Job(store, config, images.objects, images.fingerprint, outputs, None, str(weights(bench)))
            makers.append(BlockMaker(job))
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
        f"whole step: {views / median(ours):.3g} views/s",
        f"bare encode_image: {views / median(theirs):.3g} views/s",
        speed(ours, theirs),
        0.9,
        rates={"teacher": views / median(ours)},
        details={"memory_gib": memory, "side": side, "seconds": ours, "bare_seconds": theirs},
        note=ON_GPU if where.type == "cuda" else "",
    )
