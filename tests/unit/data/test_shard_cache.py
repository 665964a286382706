"""The node's cache: what it gives is right or a miss, whoever writes, and it keeps to its limit."""

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cliptea import progress
from cliptea.data import shard_cache
from cliptea.data.shard_cache import ShardCache, open_cache
from cliptea.errors import ConfigError, StorageError, Unusable
from cliptea.storage import FileStore, marks
from cliptea.storage.marks import MARK, read_mark
from cliptea.storage.s3_store import S3Store

MIB = 1 << 20


def used(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def name(number: int) -> str:
    """A sha256."""
    return f"{number:064x}"


def test_what_was_written_is_read_and_the_rest_is_a_miss_or_zeros(tmp_path):
    cache = ShardCache(tmp_path / "c", 100 * MIB)
    assert cache.read(name(1), 0, 4) is None
    cache.write(name(1), 5000, b"12345")
    assert cache.read(name(1), 5000, 5) == b"12345"
    assert cache.read(name(1), 5001, 3) == b"234"
    assert cache.read(name(1), 100, 3) == bytes(3)
    assert cache.read(name(1), 5003, 3) is None
    assert cache.read(name(2), 5000, 5) is None


def test_holes_take_no_room(tmp_path):
    ShardCache(tmp_path / "c", 100 * MIB).write(name(1), 1 << 30, b"x")
    assert used(tmp_path / "c") < MIB


def test_the_longest_unused_shards_are_evicted(tmp_path):
    cache, data = ShardCache(tmp_path / "c", 16 * MIB), np.random.default_rng(0).bytes(MIB)
    for number in range(40):
        cache.write(name(number), 0, data)
        os.utime(tmp_path / "c" / name(number), (number, number))
        assert used(tmp_path / "c") <= 17 * MIB + 8192
    assert cache.read(name(39), 0, MIB) == data
    assert cache.read(name(0), 0, MIB) is None


def test_a_shard_in_use_is_evicted_last(tmp_path):
    cache, data = ShardCache(tmp_path / "c", 16 * MIB), np.random.default_rng(0).bytes(MIB)
    for number in range(16):
        cache.write(name(number), 0, data)
        os.utime(tmp_path / "c" / name(number), (number, number))
    assert cache.read(name(0), 0, 4) == data[:4]
    for number in range(16, 24):
        cache.write(name(number), 0, data)
    assert cache.read(name(0), 0, MIB) == data
    assert cache.read(name(1), 0, MIB) is None


def test_files_of_somebody_else_are_never_evicted(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    for number, foreign in enumerate(("photo.jpg", "f" * 63)):
        (folder / foreign).write_bytes(bytes(4 * MIB))
        os.utime(folder / foreign, (number, number))
    cache, data = ShardCache(folder, MIB), np.random.default_rng(0).bytes(MIB)
    for number in range(5):
        cache.write(name(number), 0, data)
    assert cache.read(name(0), 0, 1) is None
    assert (folder / "photo.jpg").exists()
    assert (folder / ("f" * 63)).exists()


@pytest.mark.parametrize("shard", ["../../victim", "{tmp_path}/victim", "x", "a" * 64 + "\n", "A" * 64, ""])
def test_what_is_no_sha256_is_neither_written_nor_read(tmp_path, shard):
    """A bucket may give any text for the sha256 of a shard."""
    (tmp_path / "victim").write_bytes(b"precious")
    cache, shard = ShardCache(tmp_path / "cache/shards", MIB), shard.format(tmp_path=tmp_path)
    (tmp_path / "cache/shards").mkdir(parents=True)
    cache.write(shard, 0, b"hostile!")
    assert cache.read(shard, 0, 8) is None
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*"))


@pytest.mark.parametrize("link", [name(1), ".lock"])
def test_no_link_in_the_cache_is_written_through(tmp_path, monkeypatch, link):
    told = []
    monkeypatch.setattr(shard_cache, "_warn_once", told.append)
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / link).symlink_to(tmp_path / "victim")
    ShardCache(tmp_path / "shards", MIB).write(name(1), 0, b"hostile!")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert told == [
        f"parts of shards are not cached: {tmp_path / 'shards' / link} is a link, which cliptea has not made; delete it"
    ]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("opened", [False, True])
def test_a_named_pipe_in_the_cache_is_a_miss_and_is_not_waited_for(tmp_path, monkeypatch, opened):
    told, pipe = [], tmp_path / name(1)
    monkeypatch.setattr(shard_cache, "_warn_once", told.append)
    os.mkfifo(pipe)
    other_end = os.open(pipe, os.O_RDWR) if opened else None
    cache = ShardCache(tmp_path, MIB)
    assert cache.read(name(1), 0, 4) is None
    cache.write(name(1), 0, b"1234")
    assert told == [f"parts of shards are not cached: {pipe} is a named pipe, which cliptea has not made; delete it"]
    if other_end:
        os.close(other_end)


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """A link in place of the folder with shards, and the warnings."""
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    assert open_cache(S3Store("bucket")) is not None
    (tmp_path / "cache/shards").symlink_to(tmp_path / "bigger_disk")
    told = []
    monkeypatch.setattr(shard_cache, "_warn_once", told.append)
    return tmp_path / "bigger_disk", told


def test_a_link_to_a_folder_of_this_user_in_place_of_the_folder_with_shards_is_used(linked):
    folder, told = linked
    folder.mkdir()
    cache = open_cache(S3Store("bucket"))
    cache.write(name(1), 0, b"12345")
    assert (folder / name(1)).read_bytes() == b"12345"
    assert cache.read(name(1), 0, 5) == b"12345"
    assert told == []


@pytest.mark.parametrize("target", ["of somebody else", "a file", "missing"])
def test_no_other_link_in_place_of_the_folder_with_shards_is_used(linked, monkeypatch, target):
    folder, told = linked
    if target == "of somebody else":
        folder.mkdir()
        monkeypatch.setattr(shard_cache.os, "getuid", lambda: folder.stat().st_uid + 1)
    elif target == "a file":
        folder.write_text("precious")
    assert open_cache(S3Store("bucket")) is None
    assert f"{folder.parent / 'cache/shards'} is a link" in told[0]


def test_a_cache_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "project"))
    (tmp_path / "project/shards").mkdir(parents=True)
    (tmp_path / "project/thesis.tex").write_text("precious")
    with pytest.raises(StorageError, match=r"project holds files that are not from cliptea; .*set CLIPTEA_CACHE"):
        open_cache(S3Store("bucket"))
    assert sorted(path.name for path in (tmp_path / "project").iterdir()) == ["shards", "thesis.tex"]
    for uri in ("s3://bucket/cache", " "):
        monkeypatch.setenv("CLIPTEA_CACHE", uri)
        with pytest.raises(ConfigError, match=r"CLIPTEA_CACHE .*a path on this machine"):
            open_cache(S3Store("bucket"))


@pytest.mark.parametrize("content", ["lost+found", ".partial-" + "0" * 32, ".DS_Store"])
def test_an_empty_cache_is_taken_while_another_pod_takes_it(tmp_path, monkeypatch, content):
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path))
    (tmp_path / content).mkdir()
    assert open_cache(S3Store("bucket")) is not None
    assert read_mark(tmp_path)["kind"] == "cache"


def test_a_cache_that_another_pod_marks_at_this_moment_is_taken(tmp_path, monkeypatch):
    """The other pod writes its mark after this one has listed the folder."""
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path))
    looks = []

    def late(folder):
        looks.append(folder)
        if len(looks) == 1:
            (tmp_path / MARK).write_text('{"kind": "cache"}')
            (tmp_path / "shards").mkdir()
            return {}
        return read_mark(folder)

    monkeypatch.setattr(marks, "read_mark", late)
    assert open_cache(S3Store("bucket")) is not None


def write_many(folder, seed):
    random = np.random.default_rng(seed)
    cache = ShardCache(folder, 8 * MIB)
    for _ in range(300):
        shard, place = int(random.integers(20)), int(random.integers(64))
        content = bytes([shard * 7 + place & 255]) * 16384
        found = cache.read(name(shard), place * 16384, 16384)
        assert found in (None, content, bytes(16384)) or set(found) <= {content[0], 0}
        cache.write(name(shard), place * 16384, content)


def test_several_processes_share_it(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path / "c", seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert used(tmp_path / "c") <= 8 * MIB + 4 * (8 * MIB // 16 + 16384) + 4096


def test_a_disk_that_is_full_or_gone_is_a_miss(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    cache = ShardCache(tmp_path / "file", 16 * MIB)
    cache.write(name(1), 0, b"1")
    assert cache.read(name(1), 0, 1) is None

    def full(*_):
        raise OSError(28, "No space left on device")

    cache = ShardCache(tmp_path / "c", 16 * MIB)
    monkeypatch.setattr(shard_cache.os, "pwrite", full)
    cache.write(name(1), 0, b"1")
    assert cache.read(name(1), 0, 1) is None


@pytest.mark.parametrize("folder", ["new", "empty/"])
def test_a_full_disk_leaves_no_cache_that_is_refused_later(tmp_path, monkeypatch, folder):
    def full(*_, **__):
        raise Unusable("cannot use it: the disk is full")

    said = []
    monkeypatch.setattr(progress, "warn", said.append)
    shard_cache._warn_once.cache_clear()
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / folder))
    if folder.endswith("/"):
        (tmp_path / folder).mkdir()
    with monkeypatch.context() as while_full:
        while_full.setattr(marks, "write_file", full)
        assert [open_cache(S3Store("bucket")) for _ in range(2)] == [None, None]
        with pytest.raises(Unusable, match="the disk is full"):
            S3Store("bucket")._scratch("run")
    assert len(said) == 1
    assert open_cache(S3Store("bucket")) is not None
    assert read_mark(tmp_path / folder)["kind"] == "cache"


def test_a_cache_that_somebody_deletes_meanwhile_is_a_miss(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    cache = open_cache(S3Store("bucket"))
    cache.write(name(1), 0, b"1")
    shutil.rmtree(tmp_path / "cache")
    cache.write(name(1), 0, b"1")
    assert cache.read(name(1), 0, 1) is None
    open_cache(S3Store("bucket")).write(name(1), 0, b"1")
    assert cache.read(name(1), 0, 1) == b"1"


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("CLIPTEA_CACHE_GIB", text)
    with pytest.raises(ConfigError, match="CLIPTEA_CACHE_GIB"):
        open_cache(S3Store("bucket"))


def test_only_remote_stores_are_cached(monkeypatch, tmp_path):
    assert open_cache(FileStore(tmp_path)) is None
    assert open_cache(S3Store("bucket"))._limit == 16 << 30
    monkeypatch.setenv("CLIPTEA_CACHE_GIB", "0.5")
    assert open_cache(S3Store("bucket"))._limit == 1 << 29
    monkeypatch.setenv("CLIPTEA_CACHE_GIB", "0")
    assert open_cache(S3Store("bucket")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"kind": 3}', b"\xff"])
def test_what_is_no_mark_counts_as_none(tmp_path, content):
    (tmp_path / MARK).write_bytes(content)
    assert read_mark(tmp_path) == {}
