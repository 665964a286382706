"""A tiny world, and processes that train together."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from plain_network import BACKBONE
from tiny_world import TinyWorld

from cliptea import settings
from cliptea.run import Run, expand
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.training.distributed import World


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Split and teacher tokens of a tiny demo world."""
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("CLIPTEA_STORE", (folder / "store").as_uri())
    patch.setenv("CLIPTEA_EVENTS", str(folder / "events"))
    torch.set_num_threads(1)
    config = settings.load("smoke", ["teacher.pretrain.crop_iterations=1", "teacher.pretrain.scene_iterations=1"])
    run = Run(
        config=config,
        data_digest="d",
        fingerprint="f",
        job_id="j",
        tracking_run="t",
        variants=expand(config),
    )
    splits = make_splits(run)
    yield TinyWorld(run, splits, publish_cache(run, splits))
    patch.undo()


@pytest.fixture
def plain_config(world):
    """Changes of the tiny world's settings, on a student without batch norms and dropout."""

    def changed(train=None, method=None):
        delta = {
            "student": {"backbone": BACKBONE},
            "method": {"generator_dropout": 0.0, "generator_heads": 4, **(method or {})},
            "train": {"batch_size": 8, "iterations": 12, "warmup_iterations": 0, "log_every": 1, **(train or {})},
        }
        return settings.apply_delta(world[0].config, delta)

    return changed


@pytest.fixture
def together(tmp_path):
    """Call `function(world, *arguments)` in `size` forks of this process that form a gloo group; their results."""
    meetings = iter(range(100))

    def run(size, function, *arguments):
        if size == 1:
            return [function(World(), *arguments)]
        folder = tmp_path / f"group{next(meetings)}"
        folder.mkdir()
        context = multiprocessing.get_context("fork")
        members = [
            context.Process(target=_member, args=(folder, rank, size, function, arguments)) for rank in range(size)
        ]
        for member in members:
            member.start()
        for member in members:
            member.join(120)
            member.kill()
        results = [pickle.loads((folder / f"result{rank}").read_bytes()) for rank in range(size)]
        assert not any(isinstance(result, str) for result in results), "\n".join(map(str, results))
        return results

    return run


def _member(folder: Path, rank, size, function, arguments):
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
        result = function(World(rank, size), *arguments)
        dist.barrier()
    except BaseException:
        result = traceback.format_exc()
    (folder / f"result{rank}").write_bytes(pickle.dumps(result))
