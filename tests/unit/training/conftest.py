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

from cliptea import settings, variant_groups
from cliptea.run import Run, expand
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.training.distributed import World


@pytest.fixture(scope="session")
def world_store(tmp_path_factory):
    return (tmp_path_factory.mktemp("world") / "store").as_uri()


@pytest.fixture(autouse=True)
def _at_its_store(request, monkeypatch):
    """A test that has the tiny world has its store as well."""
    if "world" in request.fixturenames:
        monkeypatch.setenv("CLIPTEA_STORE", request.getfixturevalue("world_store"))


@pytest.fixture(scope="session")
def world(tmp_path_factory, world_store):
    """Split and teacher tokens of a tiny demo world."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTEA_STORE", world_store)
        patch.setenv("CLIPTEA_EVENTS", str(tmp_path_factory.mktemp("events") / "events"))
        return _world()


def _world():
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
    return TinyWorld(run, splits, publish_cache(run, splits))


@pytest.fixture
def plain_config(world):
    """Changes of the tiny world's settings, on a student without batch norms and dropout."""

    def changed(train=None, method=None):
        delta = {
            "student": {"backbone": BACKBONE},
            "method": {"generator_dropout": 0.0, "generator_heads": 4, **(method or {})},
            "train": {"batch_size": 8, "iterations": 12, "warmup_iterations": 0, "log_every": 1, **(train or {})},
        }
        return variant_groups.apply_delta(world[0].config, delta)

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
