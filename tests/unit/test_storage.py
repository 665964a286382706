"""The file store and manifests: whole objects or none, and damage is noticed."""

import os
import threading

import numpy as np
import pytest

from cliptea.errors import StorageError
from cliptea.manifest import Contents, Output, find, publish, put_object, read_object
from cliptea.storage import FileStore, open_store


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def test_bytes_come_back_whole_and_in_ranges(store):
    data = np.random.default_rng(0).bytes(10_000)
    store.put("a/b", data)
    assert store.get("a/b") == data
    assert store.get("a/b", 17, 300) == data[17:317]
    assert store.size("a/b") == len(data)
    assert store.size("a/c") is None
    assert [(entry.key, entry.size) for entry in store.entries("a")] == [("a/b", len(data))]


def test_missing_and_short_objects_are_named(store):
    with pytest.raises(StorageError, match="missing"):
        store.get("nothing")
    store.put("x", b"abc")
    with pytest.raises(StorageError, match="truncated"):
        store.get("x", 1, 5)


def test_a_named_pipe_in_the_place_of_an_object_is_not_waited_for(store):
    store.put("a/b", b"data")
    os.mkfifo(store.path("a/pipe"))
    with pytest.raises(StorageError, match="a/pipe is not a file; expected a file"):
        store.get("a/pipe")
    assert store.entry("a/pipe") is None
    assert [entry.key for entry in store.entries("a")] == ["a/b"]


def test_a_reader_never_sees_half_an_object(store):
    """Two contents are written over each other while a reader looks."""
    contents = [bytes([value]) * 200_000 for value in (1, 2)]
    store.put("k", contents[0])
    done = threading.Event()

    def write():
        for number in range(60):
            store.put("k", contents[number % 2])
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = 0
    while not done.is_set():
        assert store.get("k") in contents
        seen += 1
    thread.join()
    assert seen > 0
    assert [entry.key for entry in store.entries("")] == ["k"]  # no partial file is left


def test_a_failed_write_leaves_the_old_object(store, monkeypatch):
    store.put("k", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="the disk is full"):
        store.put("k", b"new")
    assert store.get("k") == b"old"
    assert [entry.key for entry in store.entries("")] == ["k"]


@pytest.mark.parametrize("uri", ["", "relative/path", "http://user:secret@host/x"])
def test_a_store_of_an_unknown_scheme_is_refused(uri, monkeypatch):
    monkeypatch.delenv("CLIPTEA_STORE", raising=False)
    with pytest.raises(StorageError, match="CLIPTEA_STORE") as caught:
        open_store(uri)
    assert "secret" not in str(caught.value)


def test_a_file_in_the_place_of_the_store_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    store = FileStore(tmp_path / "file" / "store")
    assert store.size("k") is None
    with pytest.raises(StorageError, match="cannot use"):
        store.put("k", b"x")


def test_an_output_is_found_only_while_all_its_objects_are_there(store):
    item = put_object(store, "k/f/data", b"12345")
    publish(store, Output("k", "f"), Contents({"data": item}, {"n": 1}))
    assert find(store, Output("k", "f")).info == {"n": 1}
    assert find(store, Output("k", "other")) is None
    store.put("k/f/data", b"123")
    assert find(store, Output("k", "f")) is None
    store.delete("k/f/data")
    assert find(store, Output("k", "f")) is None


def test_changed_bytes_of_the_right_size_are_noticed(store):
    item = put_object(store, "k", b"12345")
    store.put("k", b"12346")
    with pytest.raises(StorageError, match="damaged"):
        read_object(store, item)
