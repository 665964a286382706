"""What a setting names by path or URI is found on this machine; from S3, downloaded once a version."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
from faulty_proxy import ALWAYS

from cliptea import progress
from cliptea.errors import StorageError
from cliptea.storage import fetch, is_remote, read_small, state
from cliptea.storage.base import Entry
from cliptea.storage.local_files import cache_folder, escaped_path
from cliptea.storage.s3_store import S3Store

DATA = np.random.default_rng(2).bytes((11 << 20) + 3)


@pytest.fixture(params=["file", "s3"])
def named(request, tmp_path):
    """Writes objects, and gives their URIs, on a disk and in S3."""
    if request.param == "s3":
        return request.getfixturevalue("store")
    from cliptea.storage import FileStore

    return FileStore(tmp_path / "files")


def test_a_file_and_its_state(named):
    named.put("a/my model.pt", DATA)
    uri = named.uri("a/my model.pt")
    path = fetch(uri)
    assert path.name == "my model.pt"  # its suffix tells readers the format
    assert path.read_bytes() == DATA
    name, size, version = state(uri)
    assert (name, size) == ("my model.pt", len(DATA))
    assert state(uri) == (name, size, version)
    named.put("a/my model.pt", DATA[::-1])
    assert state(uri)[2] != version
    assert fetch(uri).read_bytes() == DATA[::-1]


def test_a_folder_and_its_state(named):
    named.put("m/config.json", b"{}")
    named.put("m/deep/weights", b"weights")
    named.put("m2/other", b"other")
    uri = named.uri("m")
    folder = fetch(uri)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert [name for name in files if not name.endswith(".cliptea-sha256")] == ["config.json", "deep/weights"]
    assert (folder / "deep" / "weights").read_bytes() == b"weights"
    before = state(uri)
    assert before[:2] == ("m", 9)
    assert fetch(f"{uri}/") == folder
    named.put("m/deep/weights", b"WEIGHTS")
    assert state(uri)[2] != before[2]
    assert (fetch(uri) / "deep" / "weights").read_bytes() == b"WEIGHTS"


def test_what_is_missing_is_one_line(named):
    for use in (fetch, state):
        with pytest.raises(StorageError, match=r"the file or folder .* does not exist") as caught:
            use(named.uri("nothing"))
        assert named.uri("nothing") in str(caught.value)


def test_plain_paths(tmp_path, monkeypatch):
    (tmp_path / "a b").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a b", str(tmp_path / "a b"), "~/a b", (tmp_path / "a b").as_uri()):
        assert fetch(name) == tmp_path / "a b"
        assert state(name) == ("a b", 1, str((tmp_path / "a b").stat().st_mtime_ns))
        assert not is_remote(name)
    assert is_remote("s3://bucket/a")


def test_a_second_call_downloads_nothing(store, proxy):
    store.put("k", DATA)
    path = fetch(store.uri("k"))
    first = [method for method, target in proxy.seen if target.endswith("/k")]
    assert first.count("GET") == 1 + (len(DATA) >> 23)  # parts of 8 MiB
    proxy.seen.clear()
    assert fetch(store.uri("k")) == path
    assert [method for method, target in proxy.seen if target.endswith("/k")] == ["HEAD"]
    place_of_it = path.relative_to(cache_folder()).as_posix()
    assert place_of_it == f"s3/{store.bucket}/{store.prefix}/k/{store.entry('k').version}/k"


def test_a_file_of_another_size_in_the_cache_is_downloaded_again(store):
    store.put("k", b"12345")
    path = fetch(store.uri("k"))
    path.write_bytes(b"123")
    assert fetch(store.uri("k")).read_bytes() == b"12345"


@pytest.mark.parametrize("damaged", ["copy", "sum"])
def test_a_damaged_copy_in_the_cache_is_never_used(store, monkeypatch, damaged):
    store.put("m/a.pt", DATA)
    store.put("m/b.pt", b"other")
    told = []
    monkeypatch.setattr(progress, "note", told.append)
    copy = fetch(store.uri("m")) / "a.pt"
    kept = copy.with_name(f".{hashlib.sha256(b'a.pt').hexdigest()[:32]}.cliptea-sha256")
    assert kept.read_text() == hashlib.sha256(DATA).hexdigest()
    file = copy if damaged == "copy" else kept
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # of the same size, and often still a finite number
    file.write_bytes(content)
    os.utime(file, (0, 0))
    assert (fetch(store.uri("m")) / "a.pt").read_bytes() == DATA
    assert len(told) == 1
    assert str(copy) in told[0]
    assert "downloaded again" in told[0]
    assert (fetch(store.uri("m")) / "a.pt").read_bytes() == DATA
    assert len(told) == 1


def test_a_copy_whose_sum_was_not_written_is_downloaded_again(store, proxy):
    store.put("k", b"12345")
    copy = fetch(store.uri("k"))
    copy.write_bytes(b"54321")
    (copy.parent / f".{hashlib.sha256(b'k').hexdigest()[:32]}.cliptea-sha256").unlink()  # as after a kill
    assert fetch(store.uri("k")).read_bytes() == b"12345"


def test_a_process_compares_a_copy_once(store, monkeypatch):
    store.put("k", b"12345")
    fetch(store.uri("k"))
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert fetch(store.uri("k")).read_bytes() == b"12345"


def test_an_object_of_no_bytes(store):
    store.put("k", b"")
    assert fetch(store.uri("k")).read_bytes() == b""


def test_a_download_that_fails_leaves_nothing(store, proxy):
    store.put("k", DATA)
    proxy.fail("500", ALWAYS, "GET", "/k")
    entry = store.entry("k")
    impatient = S3Store(store.bucket, store.prefix, replace(store.limits, patience=0.1))
    with pytest.raises(StorageError, match="it answers 500"):
        impatient.download(entry, cache_folder() / "target")
    assert list(cache_folder().iterdir()) == []


def test_an_object_that_changes_meanwhile_is_not_mixed(store):
    store.put("k", DATA)
    entry = store.entry("k")
    store.put("k", DATA[::-1])
    with pytest.raises(StorageError, match="changed while it was read"):
        store.download(entry, cache_folder() / "target")
    assert list(cache_folder().iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(store, environment, tmp_path):
    store.put("k", b"x")
    (tmp_path / "file").write_text("x")
    environment.setenv("CLIPTEA_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot use"):
        fetch(store.uri("k"))


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/../../../b", "/etc/passwd", "a//b", "./.", "..."])
def test_no_key_leaves_the_cache(key, tmp_path):
    path = tmp_path / escaped_path("bucket", key)
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to(tmp_path / "bucket")
    assert path != tmp_path / "bucket"


def test_no_version_leaves_the_cache(tmp_path, monkeypatch):
    """A server may give any text as the etag of an object."""

    class Hostile:
        bucket = "bucket"

        def entry(self, key):
            return Entry(key, 4, f"../../../{tmp_path}/victim")

        def download(self, entry, target):
            target.parent.mkdir(parents=True)
            target.write_bytes(b"data")

    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("cliptea.storage.uri._locate", lambda uri: (Hostile(), "key"))
    assert fetch("s3://bucket/key").resolve().is_relative_to(tmp_path / "cache/s3/bucket/key")


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CLIPTEA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "cliptea"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cliptea"
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.parametrize("data", [b"a: 1", b"", b"x" * 100])
def test_a_small_file_is_read_and_not_cached(named, data, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    named.put("own/my.yaml", data)
    assert read_small(named.uri("own/my.yaml"), 100) == data
    assert not (tmp_path / "cache").exists()


def test_what_is_no_small_file_is_not_read(store, proxy):
    store.put("own/my.yaml", b"x" * 101)
    large, folder, missing = store.uri("own/my.yaml"), store.uri("own"), store.uri("none.yaml")
    for uri, says in (
        (large, f"{large} has 101 bytes; expected a file of at most 100 bytes"),
        (folder, f"{folder} is a folder; expected the address of a file"),
        (missing, f"the file or folder {missing} does not exist; check its name"),
    ):
        with pytest.raises(StorageError) as caught:
            read_small(uri, 100)
        assert str(caught.value) == says
    assert not [target for method, target in proxy.seen if method == "GET" and "my.yaml" in target]
    assert not cache_folder().exists()
