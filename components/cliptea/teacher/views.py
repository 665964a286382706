"""What the teacher step makes of the views of the train images, in blocks that any number of workers share.

A block is so many views in their order; each output has its own shards of each block, so that a shard's bytes do not
depend on who makes it. A block whose shards are all there is not made again: a killed step goes on behind the last
whole one of each worker. On a cluster each of a loop's tasks calls `make_part`, and `make_outputs` after them finds
every shard there and writes the manifests.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from cliptea import device, progress
from cliptea.data.shard_sets import put_top_index
from cliptea.manifest import Manifest, publish
from cliptea.storage import Store
from cliptea.teacher.blocks import BLOCK, BlockMaker, Job, MadeBlock, blocks
from cliptea.teacher.cache import Output
from cliptea.teacher.demo import DEMO
from cliptea.teacher.tokens import prepare_weights

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["make_outputs", "make_part"]


def make_outputs(
    store: Store, run: Run, split: Manifest, outputs: list[Output], dense: Manifest | None
) -> dict[Output, Manifest]:
    """Make outputs of all views of the train shards by `teacher.num_workers` processes.

    Args:
        store: where everything is.
        run: its settings.
        split: manifest of the train shards.
        outputs: what to make.
        dense: stored dense tokens to make region maps from, or None: CLIP runs.
    """
    if not outputs:
        return {}
    job = Job(store, run, split, tuple(outputs), dense, "" if dense else prepare_weights(store, run))
    maker = BlockMaker(job)
    made = make_part(maker, 0, 1)
    return {output: _publish(maker, output, made) for output in outputs}


def make_part(maker: BlockMaker, part: int, parts: int, size: int = BLOCK) -> list[MadeBlock]:
    """Make every `parts`-th block from block `part` on, by the run's number of worker processes.

    Memory of each worker: see `BlockMaker`.
    """
    mine = dict(list(enumerate(blocks(maker.total, size)))[part::parts])
    what = "clustering dense tokens" if maker.job.dense else "computing CLIP tokens"
    with progress.bar(what, total=sum(map(len, mine.values())), unit="view") as bar:
        workers = min(maker.job.run.config.teacher.num_workers, len(mine))
        if workers <= 1:
            return [maker.make(number, views, bar.update) for number, views in mine.items()]
        made = {}
        context = get_context("spawn")  # a fork of a process that has used CUDA or threads may hang
        with ProcessPoolExecutor(workers, context, _begin, (maker.job, workers, context.Value("i", 0))) as pool:
            waiting = {pool.submit(_make, number, views): number for number, views in mine.items()}
            try:
                for future in as_completed(waiting):
                    made[waiting[future]] = future.result()
                    bar.update(len(mine[waiting[future]]))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [made[number] for number in sorted(made)]


_maker: BlockMaker | None = None  # of a worker process


def _begin(job: Job, workers: int, begun: Any) -> None:
    """Prepare a worker process: its share of the threads, the next GPU."""
    global _maker
    import torch

    with begun.get_lock():
        mine = begun.value
        begun.value += 1
    if "CLIPTEA_THREADS" in os.environ:
        os.environ["CLIPTEA_THREADS"] = str(max(1, int(os.environ["CLIPTEA_THREADS"]) // workers))
    device.prepare()
    if torch.cuda.is_available():
        torch.cuda.set_device(mine % torch.cuda.device_count())
    _maker = BlockMaker(job)


def _make(number: int, views: range) -> MadeBlock:
    assert _maker is not None
    return _maker.make(number, views, lambda done: None)


def _publish(maker: BlockMaker, output: Output, made: list[MadeBlock]) -> Manifest:
    """Write the top index and the manifest of an output whose shards are all there."""
    job = maker.job
    shards = [shard for block in made for shard in block.shards[output]]
    objects = put_top_index(job.store, output.prefix, shards)
    if output.clustering is not None:
        regions = sum(block.regions[output] for block in made)
        clustering = output.clustering.model_dump(mode="json")
        info = {"regions_per_view": regions / max(1, maker.total), "clustering": clustering}
    else:
        dim, *grid = next((block.shape for block in made if block.shape), None) or maker.shape
        info = {"dim": dim, "grid": grid, "views": maker.total}
    if output.kind == "tokens":
        info["stand_in"] = job.run.config.teacher.weights == DEMO and job.run.config.data.dataset != "demo"
    return publish(job.store, Manifest(kind=output.kind, fingerprint=output.fingerprint, objects=objects, info=info))
