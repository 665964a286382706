"""Computes the teacher's outputs for the views of the train images, in blocks that any number of workers share.

A block is a fixed number of consecutive views. Each output has separate shards for each block, so the bytes of a shard
do not depend on the worker. Complete blocks are not computed again, so a killed step resumes after the last complete
block of each worker. On a cluster, each task of a loop calls `make_part`. `make_outputs` gets their results, joins
small shards and writes the manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from cliptea import env, progress, watchdog
from cliptea.data.shard_sets import ShardEntry, find_sharded, put_top_index
from cliptea.data.shard_writer import joined
from cliptea.errors import ClipteaError, StorageError, portable
from cliptea.manifest import Contents, Manifest, Output, publish
from cliptea.teacher.blocks import BlockMaker, Job
from cliptea.teacher.outputs import ClipTime, MadeBlock, ViewOutput

__all__ = ["make_outputs", "make_part"]

LOOK_SECONDS = 1.0  # between two looks at the progress of worker processes


def make_part(job: Job, part: int, parts: int) -> list[MadeBlock]:
    """Compute every `parts`-th block, starting with block `part`, in `teacher.num_workers` processes.

    For the memory of each worker, see `BlockMaker`.
    """
    return _make_blocks(BlockMaker(job), part, parts)


def make_outputs(job: Job, handed: Sequence[MadeBlock] = ()) -> tuple[dict[Output, Manifest], ClipTime]:
    """Publish the outputs of all views. Returns their manifests, and how long CLIP took for those views that it saw.

    Args:
        handed: blocks from the parts. If any block is missing, all blocks are searched, and computed if needed.
    """
    maker = BlockMaker(job)
    made = sorted(handed, key=lambda block: block.number)
    if not _complete(made, maker):
        made = _make_blocks(maker, 0, 1)
    seen = {block.number: block.clip for block in [*handed, *made] if block.clip.views}
    published = {output.output: _publish(maker, output, made) for output in job.outputs}
    return published, ClipTime.joined(seen.values())


def _complete(made: list[MadeBlock], maker: BlockMaker) -> bool:
    """Whether all blocks are present, with shards for every output."""
    folders = {output.folder for output in maker.job.outputs}
    return [block.number for block in made] == list(range(len(maker.blocks))) and all(
        folders <= block.shards.keys() for block in made
    )


def _make_blocks(maker: BlockMaker, part: int, parts: int) -> list[MadeBlock]:
    mine = dict(list(enumerate(maker.blocks))[part::parts])
    what = "clustering stored tokens" if maker.job.stored else "computing CLIP tokens"
    with progress.bar(what, total=sum(map(len, mine.values())), unit="view") as bar:
        workers = min(maker.job.config.teacher.num_workers, len(mine))
        if workers <= 1:
            return maker.make(mine, bar.update)
        try:
            return _in_processes(maker.job, mine, workers, bar)
        except BrokenProcessPool:
            raise ClipteaError(
                "a process that computes tokens was killed, probably for lack of memory",
                f"enough memory for {workers} of them",
                "lower teacher.num_workers or teacher.batch_size",
            ) from None


def _in_processes(job: Job, mine: Mapping[int, range], workers: int, bar: progress.Bar) -> list[MadeBlock]:
    made, full = {}, len(mine) // workers * workers
    context = get_context("spawn")  # a fork of a process with CUDA or threads may hang
    done, shown = context.Value("q", 0), 0  # views
    with ProcessPoolExecutor(workers, context, _begin, (job, context.Value("i", 0), done)) as pool:
        try:
            numbers = {
                # The last blocks may be fewer than the workers, and then share all threads among themselves.
                pool.submit(_make, number, views, workers if place < full else len(mine) - full): number
                for place, (number, views) in enumerate(mine.items())
            }
            pending = set(numbers)
            while pending:
                ended, pending = wait(pending, LOOK_SECONDS, FIRST_COMPLETED)
                made.update((numbers[future], future.result()) for future in ended)
                now = done.value
                if now > shown:
                    bar.update(now - shown)
                shown = now
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [made[number] for number in sorted(made)]


_job: Job | None = None  # of a worker process
_maker: BlockMaker | None = None
_threads = 1  # that all worker processes may use
_done: Any = None  # the number of views that all worker processes have made


def _begin(job: Job, begun: Any, done: Any) -> None:
    """Set up a worker process with the next GPU. An error here would look as if the process was killed."""
    global _job, _threads, _done
    import torch

    watchdog.follow_parent()
    with begun.get_lock():
        mine = begun.value
        begun.value += 1
    if torch.cuda.is_available():
        torch.cuda.set_device(mine % torch.cuda.device_count())
    _job, _threads, _done = job, env.THREADS.count() or torch.get_num_threads(), done


def _tell(views: int) -> None:
    with _done.get_lock():
        _done.value += views


def _make(number: int, views: range, workers: int) -> MadeBlock:
    """Compute a block in a worker process while `workers` of them are busy."""
    global _maker
    env.THREADS.set(str(max(1, _threads // workers)))
    try:
        if _maker is None:
            assert _job is not None
            _maker = BlockMaker(_job)
        (made,) = _maker.make({number: views}, _tell)
    except Exception as error:
        raise portable(error) from None
    return made


def _publish(maker: BlockMaker, wanted: ViewOutput, made: list[MadeBlock]) -> Manifest:
    """Join small shards, and write the top index and the manifest of an output with complete blocks."""
    job, output, folder = maker.job, wanted.output, wanted.folder
    blocks = [shard for block in made for shard in block.shards[folder]]
    try:
        shards = _joined(job, folder, blocks)
    except StorageError:
        # Another writer of the same output may have finished first and removed the shards that it joined.
        manifest = find_sharded(job.store, output)
        if manifest is None:
            raise
        return manifest
    objects = put_top_index(job.store, folder, shards)
    if wanted.clustering is not None:
        regions = sum(block.regions[folder] for block in made)
        clustering = wanted.clustering.model_dump(mode="json")
        info = {"regions_per_view": regions / max(1, maker.total), "clustering": clustering}
    else:
        shapes = (block.shapes.get(output.kind) for block in made)
        dim, *grid = next(filter(None, shapes), None) or maker.shape(output.kind)
        info = {"dim": dim, "grid": grid, "views": maker.total}
    info |= {"split": job.split, "views_of_an_image": job.config.teacher.views}
    if output.kind == "tokens":
        from cliptea.teacher.clip_files import weights_sha256  # open_clip takes as long to import as torch

        info["clip_sha256"] = weights_sha256(job.weights)
        info["stand_in"] = job.config.teacher.source.kind == "demo" and job.config.data.dataset != "demo"
    manifest = publish(job.store, output, Contents(objects, info))
    if shards is not blocks:  # they are no longer needed
        for item in [item for shard in blocks for item in (shard.index, shard.tar)]:
            job.store.delete(item.key)
    return manifest


def _joined(job: Job, folder: str, blocks: list[ShardEntry]) -> list[ShardEntry]:
    """The shards of blocks or, if all of them are smaller than a shard should be, the same records in larger shards."""
    limit = job.config.data.shard_mib << 20
    return blocks if any(shard.tar.size >= limit for shard in blocks) else joined(job.store, folder, blocks, limit)
