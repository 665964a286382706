"""How CLIP's work is cut up: batches across images, blocks that overlap, threads of workers, bfloat16, compilation."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import Future
from threading import Event
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cliptea import device, progress, settings, variant_groups
from cliptea.config import TeacherConfig
from cliptea.data.records import read_array
from cliptea.data.shards import ShardReader
from cliptea.errors import ClipteaError, StorageError
from cliptea.manifest import SCHEMA_VERSION, VERSIONS
from cliptea.storage import FileStore
from cliptea.teacher import blocks, view_outputs
from cliptea.teacher.batch_tokens import Tokens
from cliptea.teacher.clip import Teacher, load_teacher, open_teacher
from cliptea.teacher.outputs import SHARDS, MadeBlock, tokens_fingerprint

LAYERS, CROP = 2, 48  # of the small CLIP
SECONDS = 60  # for another thread to get its turn on a busy machine


def arrays(made, kind):
    manifest = {"tokens": made.cache.tokens, "dense": made.cache.clustered["dense"]}[kind]
    reader = ShardReader(made.store, manifest.objects, SHARDS[kind])
    return np.stack([read_array(reader, record) for record in range(len(reader))]).astype(np.float64)


def batch_sizes(monkeypatch):
    seen, tokens = [], Teacher.tokens

    def counted(self, images, valid):
        seen.append(len(images))
        return tokens(self, images, valid)

    monkeypatch.setattr(Teacher, "tokens", counted)
    return seen


def test_a_batch_of_several_images_gives_each_view_the_tokens_that_it_has_alone(make, monkeypatch):
    seen = batch_sizes(monkeypatch)
    alone = make("teacher.batch_size=1", store="alone")
    assert seen == [1] * 40
    seen.clear()
    together = make("teacher.batch_size=7", store="together")  # of two views each, so that images share batches
    assert seen == [7, 5, 7, 5, 7, 5, 4]
    assert together.cache.tokens.fingerprint == alone.cache.tokens.fingerprint
    np.testing.assert_allclose(arrays(together, "tokens"), arrays(alone, "tokens"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(arrays(together, "dense"), arrays(alone, "dense"), rtol=2**-10, atol=1e-5)


def test_views_are_read_and_batches_are_written_while_clip_runs(make, monkeypatch):
    """CLIP waits until views of the next batch are read, and a batch is only written once CLIP is in the next one."""
    view, tokens, begin_writing = blocks.BlockMaker._view, Teacher.tokens, Tokens.require_finite
    read, encoding, written = [Event() for _ in range(40)], [Event() for _ in range(10)], []

    def reading(self, number):
        cut = view(self, number)
        read[number].set()
        return cut

    def running(self, images, valid):
        batch = next(number for number, event in enumerate(encoding) if not event.is_set())
        encoding[batch].set()
        if batch % 3 != 2 and batch < 9:  # three batches of 4 views are a block
            assert read[4 * batch + 4].wait(SECONDS)
        return tokens(self, images, valid)

    def writing(batch):
        if len(written) < 9:
            assert encoding[len(written) + 1].wait(SECONDS)
        written.append(batch.names)
        begin_writing(batch)

    monkeypatch.setattr(blocks.BlockMaker, "_view", reading)
    monkeypatch.setattr(Teacher, "tokens", running)
    monkeypatch.setattr(Tokens, "require_finite", writing)
    make()
    assert [len(names) for names in written] == [4] * 10
    assert all(event.is_set() for event in read)


def test_clip_does_not_wait_for_the_store_at_the_end_of_a_block(make, monkeypatch):
    """The first block's last shard is only stored once CLIP is in the second block."""
    tokens, put, begun, calls = Teacher.tokens, FileStore.put, Event(), []

    def encoding(self, images, valid):
        calls.append(len(images))
        if len(calls) == 4:
            begun.set()
        return tokens(self, images, valid)

    def waiting(self, key, data):
        if "/00000/" in key and not key.startswith("split"):
            assert begun.wait(SECONDS), "CLIP has waited for the shards of the first block"
        put(self, key, data)

    monkeypatch.setattr(Teacher, "tokens", encoding)
    monkeypatch.setattr(FileStore, "put", waiting)
    made = make()
    assert calls == [4] * 10
    assert made.cache.tokens.info["views"] == 40


class Pool:
    """Runs nothing, and notes what is submitted."""

    submitted: ClassVar[list[tuple[int, range, int]]] = []

    def __init__(self, workers, *rest):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, work, number, views, workers):
        self.submitted.append((number, views, workers))
        done = Future()
        done.set_result(MadeBlock(number=number))
        return done


@pytest.mark.parametrize(("workers", "busy"), [(2, [2, 2, 2, 2]), (3, [3, 3, 3, 1]), (4, [4] * 4), (9, [4] * 4)])
def test_workers_share_the_threads_among_those_that_have_a_block(make, monkeypatch, workers, busy):
    made = make()
    config = variant_groups.apply_delta(made.run.config, {"teacher": {"num_workers": workers}})
    job = blocks.Job(made.store, config, made.split.objects, made.split.fingerprint, (), None, "")
    monkeypatch.setattr(Pool, "submitted", [])
    monkeypatch.setattr(view_outputs, "ProcessPoolExecutor", Pool)
    view_outputs.make_part(job, 0, 1)
    assert Pool.submitted == [(n, range(12 * n, min(12 * n + 12, 40)), busy[n]) for n in range(4)]


@pytest.fixture
def forking(monkeypatch):
    """A maker of two blocks whose two processes are forks, so that they have what a test changes."""
    job = SimpleNamespace(config=settings.load("smoke", ["teacher.num_workers=2"]), stored=None)
    monkeypatch.setattr(view_outputs, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(view_outputs.watchdog, "follow_parent", lambda: None)
    return SimpleNamespace(job=job, blocks=[range(3), range(3, 6)])


def killed(number, views, workers):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_one_line_that_says_what_to_do(forking, monkeypatch):
    monkeypatch.setattr(view_outputs, "_make", killed)
    with pytest.raises(ClipteaError, match=r"was killed, probably for lack of memory; .*lower teacher\.num_workers or"):
        view_outputs._make_blocks(forking, 0, 1)


class Strange(Exception):
    """An error whose pickle cannot be read, which would look like the end of the worker."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("error", [StorageError("S3 is away", "an answer", "wait"), Strange("one", "two")])
def test_an_error_of_a_worker_is_told_even_if_it_comes_before_the_first_block(forking, monkeypatch, error):
    def fail(job):
        raise error

    monkeypatch.setattr(view_outputs, "BlockMaker", fail)
    with pytest.raises((StorageError, RuntimeError)) as caught:
        view_outputs._make_blocks(forking, 0, 1)
    assert str(caught.value) == (str(error) if isinstance(error, StorageError) else "Strange: one and two")
    assert getattr(caught.value, "todo", None) == getattr(error, "todo", None)


@pytest.mark.parametrize(("threads", "workers", "share"), [(4, 2, 2), (4, 1, 4), (3, 2, 1), (1, 2, 1)])
def test_a_block_gets_its_share_of_the_threads(monkeypatch, threads, workers, share):
    class Maker:
        def make(self, given, tell):
            assert given == {5: range(3)}
            device.prepare()  # as a `BlockMaker` does
            return [MadeBlock(number=torch.get_num_threads())]

    before = torch.get_num_threads()
    monkeypatch.setenv("CLIPTEA_THREADS", str(threads))
    monkeypatch.setattr(view_outputs, "_maker", Maker())
    monkeypatch.setattr(view_outputs, "_threads", threads)
    try:
        assert view_outputs._make(5, range(3), workers).number == share
    finally:
        torch.set_num_threads(before)


def pixels(views=6):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (views, 3, CROP, CROP), dtype=torch.uint8, generator=generator)
    return images, torch.ones(views, CROP, CROP, dtype=torch.bool)


def test_bfloat16_is_close_to_float32_and_uses_fused_attention(folder):
    """As on a GPU. Each number of bfloat16 is off by at most 2^-9; after two layers a token is off by at most 2^-6."""
    teacher = load_teacher(str(folder), "unused", CROP)
    exact = teacher.tokens(*pixels())
    with torch.autocast("cpu", torch.bfloat16), profile(activities=[ProfilerActivity.CPU]) as profiled:
        rounded = teacher.tokens(*pixels())
    for wanted, found in zip(exact, rounded, strict=True):
        assert found.dtype == torch.float32
        error = torch.linalg.vector_norm(found - wanted, dim=1) / torch.linalg.vector_norm(wanted, dim=1)
        assert 2**-14 < error.max() < 2**-6
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls["aten::scaled_dot_product_attention"] == LAYERS
    assert "aten::softmax" not in calls


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_teacher_gives_the_same_tokens(folder):
    plain, compiled = (
        open_teacher(str(folder), TeacherConfig(crop=CROP, compile=compile_)) for compile_ in (False, True)
    )
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["ok"]
    found = compiled.tokens(*pixels())
    assert frames["ok"] > before
    for wanted, one in zip(plain.tokens(*pixels()), found, strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)


def test_settings_about_speed_are_not_part_of_the_tokens_fingerprint():
    """Written out here, so that tokens of earlier versions are found."""
    teacher = {
        "weights": "demo",
        "model": "ViT-B-16-quickgelu",
        "views": 3,
        "base_scale": [64, 64],
        "ratio_range": [0.9, 1.2],
        "crop": 32,
        "cat_max_ratio": 0.75,
    }
    names = ("teacher.views=3", "data.seed=5")
    demo = settings.load("demo", [*names])
    scenes = hashed("world", world=demo.data.world.model_dump(), seed=5)
    weights = hashed("demo-teacher", scenes=scenes, pretrain=demo.teacher.pretrain.model_dump())
    wanted = hashed("tokens", teacher=teacher, weights=weights, split="abc", seed=5)
    for speed in ((), ("teacher.compile=true",), ("teacher.batch_size=3", "teacher.num_workers=2")):
        assert tokens_fingerprint(settings.load("demo", [*names, *speed]), "abc") == wanted


def hashed(kind, **parts):
    text = json.dumps([SCHEMA_VERSION, kind, VERSIONS[kind], parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Slow:
    """A maker of blocks whose views are done one after the other."""

    def __init__(self, job):
        pass

    def make(self, given, tell):
        ((number, views),) = given.items()
        for _ in views:
            tell(1)
            time.sleep(0.2)
        return [MadeBlock(number=number)]


def test_the_views_of_a_block_are_reported_before_its_end(forking, monkeypatch):
    told = []
    monkeypatch.setattr(view_outputs, "BlockMaker", Slow)
    monkeypatch.setattr(view_outputs, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(progress.Bar, "update", lambda self, number: told.append(number))
    made = view_outputs._make_blocks(forking, 0, 1)
    assert [block.number for block in made] == [0, 1]
    assert sum(told) == 6
    assert len(told) >= 3
