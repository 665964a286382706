"""Copies of objects in the cache: their names, and what may lie in their place."""

import os

import numpy as np
import pytest

from cliptea.storage import FileStore, Store, fetch, uri
from cliptea.storage.local_files import write_file


class Bucket(Store):
    """A bucket in a folder."""

    bucket = "bucket"

    def __init__(self, folder):
        self.files = FileStore(folder)
        self.downloads = []

    def entry(self, key):
        return self.files.entry(key)

    def entries(self, prefix):
        return self.files.entries(prefix)

    def download(self, entry, target):
        self.downloads.append(entry.key)
        write_file(target, self.files.get(entry.key))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    bucket = Bucket(tmp_path / "bucket")
    monkeypatch.setattr(uri, "_locate", lambda address: (bucket, address.removeprefix("s3://bucket/")))
    return bucket


@pytest.mark.parametrize("name", ["k", "n" * 255, "é" * 127, ("x" * 250) + ".pth"])
def test_a_name_of_any_length_is_cached(bucket, name):
    data = np.random.default_rng(0).bytes(1000)
    bucket.files.put(f"m/{name}", data)
    for _ in range(2):
        assert fetch(f"s3://bucket/m/{name}").read_bytes() == data
        assert (fetch("s3://bucket/m") / name).read_bytes() == data
    assert bucket.downloads == [f"m/{name}"] * 2  # of the file, and of the folder


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", [0, 5])
@pytest.mark.parametrize("replaced", ["copy", "sum"])
def test_a_named_pipe_in_the_place_of_a_copy_is_not_waited_for(bucket, replaced, size):
    bucket.files.put("k", b"12345"[:size])
    copy = fetch("s3://bucket/k")
    (kept,) = copy.parent.glob(".*.cliptea-sha256")
    file = copy if replaced == "copy" else kept
    file.unlink()
    os.mkfifo(file)
    assert fetch("s3://bucket/k").read_bytes() == b"12345"[:size]
    assert bucket.downloads == ["k", "k"]
