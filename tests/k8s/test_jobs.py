"""What the jobs do, against a real S3 server."""

import os
import subprocess
import sys

import pytest
from manifests import K8S, one, overlay
from storage.s3_server import ACCESS, SECRET, running

from cliptea.storage import open_store
from cliptea.storage.minio_client import Limits, connect

COPY = K8S / "jobs/copy-data/copy_data.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("s3")) as host:
        yield host


@pytest.fixture
def environment(monkeypatch, server):
    for name in [name for name in os.environ if name.startswith(("AWS_", "CLIPTEA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPTEA_S3_ENDPOINT", f"http://{server}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    config = one(overlay("local"), "ConfigMap", "cliptea")["data"]
    for name, value in config.items():
        monkeypatch.setenv(name, value)
    return config


def python(*arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)


def make_bucket():
    (container,) = one(overlay("local"), "Job", "cliptea-bucket")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    return python("-c", *container["args"])


def test_the_bucket_is_made_once(environment):
    for _ in range(2):
        done = make_bucket()
        assert done.returncode == 0, done.stderr
        assert done.stdout == "s3://cliptea is there\n"
    assert connect(Limits()).bucket_exists("cliptea")
    open_store(environment["CLIPTEA_STORE"]).put("a", b"1")  # which is where the pipeline writes


def test_a_folder_is_copied_and_a_second_time_only_what_is_missing(environment, tmp_path):
    make_bucket()
    files = {"images/val/a.jpg": b"1" * 100, "classes.json": b"{}", "deep/er/ü b.png": b""}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found/x").write_bytes(b"x")
    assert python(COPY, tmp_path, "s3://cliptea/data/mine").stdout == "3 files copied, 0 were there\n"
    (tmp_path / "classes.json").write_bytes(b'{"a": 1}')
    assert python(COPY, tmp_path, "s3://cliptea/data/mine/").stdout == "1 files copied, 2 were there\n"
    store = open_store("s3://cliptea/data/mine")
    assert {entry.key: store.get(entry.key) for entry in store.entries("")} == files | {"classes.json": b'{"a": 1}'}


def test_a_bucket_that_is_not_there_is_one_line(environment, tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    done = python(COPY, tmp_path, "s3://absent/data")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
