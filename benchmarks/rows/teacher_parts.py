"""Two parts of the teacher's work on one machine against a single part, with a CLIP of the demo's size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.measure import Bench, Row, environment, interleaved, speed
from benchmarks.world import device, new_run
from cliptea import env, settings
from cliptea.config import ClusteringConfig
from cliptea.cores import cores
from cliptea.manifest import Output
from cliptea.messages import three_digits
from cliptea.steps.split import make_splits
from cliptea.storage import open_store
from cliptea.teacher.blocks import BLOCK, Job
from cliptea.teacher.outputs import ViewOutput
from cliptea.teacher.view_outputs import make_part

VIEWS, BLOCKS = 8, 2  # views of a scene, as in the demo


def measure(bench: Bench) -> Iterator[Row]:
    """One process has all cores, and each of two has half of them. With a GPU, both use the same one."""
    both, rounds = cores(), iter(range(1000))
    with environment(CLIPTEA_STORE=(bench.folder / "parts").as_uri()):
        job = _job(bench)
        views = job.config.data.world.train_scenes * VIEWS
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:

            def work(parts: int) -> None:
                mine, threads = _unmade(job, next(rounds)), max(1, both // parts)
                for made in [pool.submit(_make, mine, part, parts, threads) for part in range(parts)]:
                    made.result()

            work(2)  # both processes import what they need
            two, one = interleaved(bench.repeats, lambda: work(2), lambda: work(1))
    yield Row(
        f"two teacher parts : one, {both} cores{', one GPU' * (device() == 'cuda')}, CLIP of the demo, {views} views",
        f"two: {three_digits(views / median(two))} views/s",
        f"one: {three_digits(views / median(one))} views/s",
        speed(two, one),
        1,
        details={"two_seconds": two, "one_seconds": one},
    )


def _make(job: Job, part: int, parts: int, threads: int) -> None:
    env.THREADS.set(str(threads))
    make_part(job, part, parts)


def _job(bench: Bench) -> Job:
    scenes = 8 if bench.quick else BLOCKS * BLOCK // VIEWS
    world = [f"data.world.train_scenes={scenes}", "data.world.val_scenes=1"]
    config = settings.load("demo", [f"teacher.weights={_weights(bench)}", f"teacher.views={VIEWS}", *world])
    images = make_splits(new_run(config)).own
    return Job(open_store(), config, images.objects, images.fingerprint, (), None, config.teacher.weights or "")


def _unmade(job: Job, number: int) -> Job:
    """The job with everything that a run makes of a view, which nobody has made."""
    kinds = {"dense": None, "regions": ClusteringConfig(), "tokens": None}
    return job._replace(
        outputs=tuple(ViewOutput(Output(kind, f"bench{number}"), clustering) for kind, clustering in kinds.items())
    )


def _weights(bench: Bench) -> Path:
    """Random weights."""
    import open_clip
    import safetensors.torch

    from cliptea.teacher.pretrain import CONFIG, WEIGHTS, model_config

    folder, config = bench.folder / "demo-clip", model_config(64)
    folder.mkdir()
    safetensors.torch.save_file(open_clip.CLIP(**config).state_dict(), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    return folder
