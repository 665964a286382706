"""A backup is rehearsed: made of a finished run with ordinary tools, restored elsewhere, and used as if nothing was."""

import re
import shutil
import sqlite3
from contextlib import closing

import minio
import numpy as np
import pytest
import torch
from small_run import run_all
from storage.s3_server import ACCESS, BUCKET, SECRET, running

from cliptea.steps.store_folder import OBJECT
from cliptea.storage import open_store
from cliptea.storage.marks import claim
from cliptea.tracking.database import database_uri
from cliptea_pipeline.api import open_model
from cliptea_pipeline.mlflow_database import find_database

OUTPUTS = {
    "demo-teacher",
    "split",
    "tokens",
    "dense",
    "regions",
    "text",
    "clip-time",
    "train",
    "evaluate",
    "speed",
    "compare",
}  # folders
MEASURED = ("training_images_per_second", "inference")  # of a row: speeds, which differ each time
NEW = ("mlflow_run_id", "model_uri")  # of a row whose run was logged to another database


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Nothing of the user's, and steps of a run on one machine."""
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that what the product sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    return monkeypatch


def run(environment, root, store=None):
    """The results of a run in a work directory, and what is then in its store."""
    environment.setenv("MLFLOW_TRACKING_URI", database_uri(find_database(root)))
    environment.setenv("CLIPTEA_STORE", store or (root / "store").as_uri())
    return run_all(), outputs()


def outputs():
    """Every object of an output in the store that the environment names, with its version."""
    return {entry for entry in open_store().entries("") if entry.key.split("/")[0] in OUTPUTS}


def mask(environment, root):
    """What the registered champion of a work directory makes of a photo."""
    environment.delenv("MLFLOW_TRACKING_URI", raising=False)
    photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return open_model("models:/cliptea-smoke@champion", root).segment(photo).mask


@pytest.fixture(scope="module")
def backup(tmp_path_factory, empty_database):
    """The backup of a finished run whose original is gone, with its results and a mask of its champion."""
    torch.set_num_threads(1)
    root, saved = tmp_path_factory.mktemp("original") / "w", tmp_path_factory.mktemp("backup") / "w"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPTEA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CLIPTEA_EVENTS", str(tmp_path_factory.mktemp("events") / "events"))
        claim(root, "work directory", "")
        (root / "mlflow").mkdir()
        shutil.copy(empty_database, root / "mlflow/mlflow.db")
        rows, made = run(patch, root)
        assert {entry.key.split("/")[0] for entry in made} == OUTPUTS
        expected = mask(patch, root)
    (saved / "mlflow").mkdir(parents=True)
    with (
        closing(sqlite3.connect(root / "mlflow/mlflow.db")) as live,
        closing(sqlite3.connect(saved / "mlflow/mlflow.db")) as copy,
    ):
        live.backup(copy)
    for name in ("mlflow/artifacts", "store"):
        shutil.copytree(root / name, saved / name)
    shutil.copy(root / "cliptea.json", saved)
    shutil.rmtree(root)
    return saved, rows, expected


@pytest.fixture
def restored(backup, tmp_path):
    """The backup in another place."""
    return shutil.copytree(backup[0], tmp_path / "elsewhere/work")


def without(rows, *names):
    return [{name: row[name] for name in row if name not in names} for row in rows]


def test_clean_knows_the_names_of_all_objects(restored, environment):
    environment.setenv("CLIPTEA_STORE", (restored / "store").as_uri())
    assert [entry.key for entry in outputs() if not OBJECT.fullmatch(entry.key)] == []


def assert_only_the_place_is_new(before, after):
    """The commands in the report name the work directory, so the report with them is written again."""
    assert before < after
    for entry in after - before:
        assert re.fullmatch(r"compare/\w+/shipped-\w+\.html", entry.key)
        page = open_store().get(entry.key)
        assert b"cliptea ui --workdir WORKDIR" in page
        assert not re.search(rb"original\d+/w", page)


def test_in_another_folder_everything_is_reused(backup, restored, environment):
    environment.setenv("CLIPTEA_STORE", (restored / "store").as_uri())
    before = outputs()
    assert np.array_equal(mask(environment, restored), backup[2])
    rows, after = run(environment, restored)
    assert rows == backup[1]
    assert_only_the_place_is_new(before, after)


def test_in_another_bucket_everything_is_reused(backup, restored, environment, tmp_path):
    with running(tmp_path / "s3") as host:
        client = minio.Minio(host, ACCESS, SECRET, secure=False)
        for file in sorted(path for path in (restored / "store").rglob("*") if path.is_file()):
            client.fput_object(BUCKET, f"new/{file.relative_to(restored / 'store').as_posix()}", str(file))
        shutil.rmtree(restored / "store")
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("CLIPTEA_S3_ENDPOINT", f"http://{host}")
        environment.setenv("CLIPTEA_STORE", f"s3://{BUCKET}/new")
        before = outputs()
        assert len(before) > 20
        rows, after = run(environment, restored, f"s3://{BUCKET}/new")
        assert rows == backup[1]
        assert_only_the_place_is_new(before, after)
        assert np.array_equal(mask(environment, restored), backup[2])


def test_with_an_older_database_nothing_is_trained_and_the_run_is_logged_again(
    backup, restored, environment, empty_database
):
    shutil.rmtree(restored / "mlflow")
    (restored / "mlflow").mkdir()
    shutil.copy(empty_database, restored / "mlflow/mlflow.db")
    environment.setenv("CLIPTEA_STORE", (restored / "store").as_uri())
    before = outputs()
    rows, after = run(environment, restored)
    assert without(rows, *NEW) == without(backup[1], *NEW)
    assert {row["mlflow_run_id"] for row in rows}.isdisjoint(row["mlflow_run_id"] for row in backup[1])
    assert {entry.key.split("/")[0] for entry in after ^ before} <= {"compare"}  # the report names the runs
    assert np.array_equal(mask(environment, restored), backup[2])


def test_with_an_older_store_what_it_lacks_is_made_again(backup, restored, environment):
    for kind in ("train", "evaluate", "speed", "compare", "tracked", "uses"):
        shutil.rmtree(restored / "store" / kind)
    assert np.array_equal(mask(environment, restored), backup[2])  # a registered model does not need the store
    environment.setenv("CLIPTEA_STORE", (restored / "store").as_uri())
    before = outputs()
    rows, after = run(environment, restored)
    assert without(rows, *MEASURED) == without(backup[1], *MEASURED)
    assert before < after
    assert {entry.key.split("/")[0] for entry in after - before} == {"train", "evaluate", "speed", "compare"}
