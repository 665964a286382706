"""S3 as a store: what comes back, in which order, from threads, forks and other processes."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cliptea.errors import StorageError
from cliptea.storage import open_store
from cliptea.storage.s3_store import S3Store


def random_bytes(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("size", [0, 1, 4097, 1 << 20])
def test_bytes_come_back(store, size):
    data = random_bytes(size)
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.size("a/b") == size


@pytest.mark.parametrize("key", ["with space", "ünï/cødé 漢字.tar", "a+b=c&d?e#f", "quote'\"", "x/~tilde/[0]*"])
def test_any_key_serves(store, key):
    store.put(key, b"x")
    assert store.get(key) == b"x"
    assert [entry.key for entry in store.entries("")] == [key]
    store.delete(key)
    assert store.size(key) is None


def test_ranges(store):
    data = random_bytes(10_000)
    store.put("k", data)
    for start, length in [(0, 1), (17, 300), (9_999, 1), (0, 10_000), (5, 0)]:
        assert store.get("k", start, length) == data[start : start + length]
    assert store.get("k", 400) == data[400:]
    assert store.get("k", 10_000) == b""
    for start, length in [(9_999, 2), (10_000, 1), (20_000, 5)]:
        with pytest.raises(StorageError, match="truncated; expected"):
            store.get("k", start, length)


def test_what_is_missing_is_named(store):
    assert store.entry("nothing") is None
    store.delete("nothing")
    for length in (None, 0, 3):
        with pytest.raises(StorageError, match=f"{store.uri('nothing')} is missing"):
            store.get("nothing", 0, length)


def test_parts_of_a_large_object_are_put_together(store):
    data = random_bytes((15 << 20) + 7)
    store.put("large", data)
    assert store.get("large") == data
    assert store.get("large", (5 << 20) - 3, 6) == data[(5 << 20) - 3 : (5 << 20) + 3]
    version = store.entry("large").version
    assert version.endswith("-4")  # S3's mark of four parts
    store.put("large", data[1:])
    assert store.entry("large").version != version


def test_a_list_longer_than_a_page_is_sorted_and_whole(store, server_folder):
    names = [f"p/{number}" for number in range(1203)]
    store.put(names[0], names[0].encode())
    for name in names[1:]:  # the server's own format: faster than as many requests
        (server_folder / store.bucket / store.prefix / name).write_bytes(name.encode())
    for other in ("p-", "p0/x", "o/z"):
        store.put(other, b"other")
    entries = list(store.entries("p"))
    assert [entry.key for entry in entries] == sorted(names)
    assert [entry.size for entry in entries] == [len(entry.key) for entry in entries]
    assert entries[7] == store.entry(entries[7].key)
    assert list(store.entries("p/")) == entries


def test_files_and_s3_list_in_the_same_order(store, tmp_path):
    files = open_store((tmp_path / "files").as_uri())
    for key in ["a/b", "a-b", "a.b", "a/b-c/d", "a/b.c", "ä", "Z", "a0", "a/é"]:
        store.put(key, b"")
        files.put(key, b"")
    for prefix in ("", "a"):
        assert [entry.key for entry in files.entries(prefix)] == [entry.key for entry in store.entries(prefix)]


def test_parallel_writers_of_one_key_leave_one_whole_object(store):
    contents = [bytes([value]) * 200_000 for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(store.put, "k", content) for content in contents * 4]
        store.put("k", contents[0])
        while not all(write.done() for write in writes):
            assert store.get("k") in contents
        for write in writes:
            write.result()
    assert store.get("k") in contents


def _read_in_child(store, key, queue):
    queue.put([store.get(key) for _ in range(20)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_serves_in_other_processes(store, method):
    """Connected before the fork: parent and child must not read each other's answers."""
    for number in range(3):
        store.put(f"k{number}", bytes([number]) * 100_000)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(store, f"k{number}", queue)) for number in (1, 2)]
    for child in children:
        child.start()
    for _ in range(20):
        assert store.get("k0") == bytes(100_000)
    answers = [queue.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert {(len(answer), len(set(answer)), answer[0][0]) for answer in answers} == {(20, 1, 1), (20, 1, 2)}


def test_a_pickled_store_holds_no_secret(store):
    store.put("k", b"x")
    data = pickle.dumps(store)
    assert b"secret" not in data
    assert pickle.loads(data).get("k") == b"x"


def test_a_uri_opens_the_store_it_names(store):
    store.put("a/b c", b"x")
    assert open_store(f"s3://{store.bucket}/{store.prefix}/").get("a/b c") == b"x"
    whole = open_store(f"s3://{store.bucket}")
    assert isinstance(whole, S3Store)
    assert whole.get(f"{store.prefix}/a/b c") == b"x"
    assert whole.uri(f"{store.prefix}/a/b c") == store.uri("a/b c")


def test_scratch_folders_are_local_and_found_again_after_an_error(store, tmp_path):
    def failing():
        with store.scratch("work") as folder:
            (folder / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert list(store.entries("")) == []
    with store.scratch("work") as folder:
        assert folder.is_relative_to(tmp_path / "cache")
        assert (folder / "half").exists()
    assert not folder.exists()
