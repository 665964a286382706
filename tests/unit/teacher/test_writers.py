"""Writers of one cache that race, or are killed: nothing is lost, and nothing is there by half."""

import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest

from cliptea.data.records import read_array
from cliptea.data.shard_sets import find_sharded
from cliptea.data.shards import ShardReader
from cliptea.manifest import Output
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import FileStore
from cliptea.teacher.clip import Teacher
from cliptea.teacher.outputs import SHARDS

FORK = multiprocessing.get_context("fork")  # of a process that has loaded everything: it begins at once
ROUNDS = [0.001, 0.0]  # two GPUs that round differently, two that do not


def slow(rng, method):
    def put(self, key, data):
        time.sleep(rng.uniform(0, 0.01))
        method(self, key, data)

    return put


def write(make, answers, barrier, number, change):
    """One of the writers. Its tokens differ from the others' by the factor `change`."""
    tokens = Teacher.tokens

    def changed(self, images, valid):
        cls_BD, dense_BDgg = tokens(self, images, valid)
        return cls_BD * (1 + change), dense_BDgg * (1 + change)

    Teacher.tokens = changed
    FileStore.put = slow(np.random.default_rng(number), FileStore.put)
    barrier.wait()
    answers.put(make(store="shared").cache.model_dump_json())


def everything(store, cache):
    """All arrays of a cache, by kind; reading checks every hash."""
    manifests = {
        "tokens": cache.tokens,
        "dense": cache.clustered["dense"],
        "regions": next(iter(cache.regions.values())),
    }
    found = {}
    for kind, manifest in manifests.items():
        reader = ShardReader(store, manifest.objects, SHARDS[kind])
        found[kind] = np.stack([read_array(reader, record) for record in range(len(reader))])
    return found


@pytest.mark.parametrize("change", ROUNDS)
def test_two_writers_at_once_each_end_with_a_whole_cache(make, change):
    wanted = make(store="alone")
    alone = everything(wanted.store, wanted.cache)
    answers, barrier = FORK.Queue(), FORK.Barrier(2)
    writers = [
        FORK.Process(target=write, args=(make, answers, barrier, number, number * change)) for number in range(2)
    ]
    for writer in writers:
        writer.start()
    caches = [TeacherCache.model_validate_json(answers.get(timeout=120)) for _ in writers]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    after = make(store="shared")
    for cache in (*caches, after.cache):
        found = everything(after.store, cache)
        assert found["tokens"].shape == alone["tokens"].shape
        np.testing.assert_allclose(found["tokens"], alone["tokens"], rtol=2 * change + 1e-6, atol=0)
        np.testing.assert_allclose(found["dense"], alone["dense"], rtol=2 * change + 2**-10, atol=1e-6)
        if change == 0:
            assert cache == wanted.cache


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_a_writer_killed_at_any_moment_leaves_nothing_by_half(make, number):
    began = time.monotonic()
    whole = make(store="whole")
    seconds = time.monotonic() - began
    child = FORK.Process(target=make, kwargs={"store": "killed"})
    child.start()
    time.sleep(np.random.default_rng(number).uniform(0, 1.1 * seconds))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    store = FileStore(whole.store.root.with_name("killed"))
    for key in [entry.key for entry in store.entries("") if entry.key.endswith("/manifest.json")]:
        kind, fingerprint, _ = key.split("/")
        assert kind == "clip-time" or store.get(key) == whole.store.get(key)
        assert kind not in SHARDS or find_sharded(store, Output(kind, fingerprint)) is not None
    again = make(store="killed")
    assert again.cache == whole.cache
    left = again.files().keys() - whole.files().keys()
    assert all(re.search(r"/\d{5}/\d{5}-", key) for key in left)  # SHARDS.md: killed between manifest and removal
    assert {key: data for key, data in again.files().items() if key not in left} == whole.files()
