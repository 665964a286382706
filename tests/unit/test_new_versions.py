"""A new version of cliptea that increases the version of a kind: what becomes of the outputs of the earlier one."""

import re
import shutil
from contextlib import contextmanager

import past_runs
import pytest
from mlflow import MlflowClient
from past_runs import add_run, keys
from typer.testing import CliRunner

from cliptea.manifest import VERSIONS, Output, find, fingerprint
from cliptea.storage import FileStore
from cliptea.storage.marks import claim
from cliptea.tracking.database import database_uri
from cliptea_pipeline.cli import app


@pytest.fixture
def work(tmp_path, empty_database, monkeypatch):
    """A work directory without runs, and a client of its MLflow."""
    root = tmp_path / "work"
    claim(root, "work directory", "")
    for name in ("mlflow", "store", "run"):
        (root / name).mkdir()
    shutil.copy(empty_database, root / "mlflow/mlflow.db")
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI", "KFP_ENDPOINT"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPTEA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database_uri(root / "mlflow/mlflow.db"))
    client = MlflowClient()
    past_runs.experiment_id(client)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return root, client


def student():
    """The output of a student with the same settings and inputs, whatever the version."""
    return Output("train", fingerprint("train", settings={"iterations": 8}, tokens="0123456789abcdef"))


def clean(root, *arguments):
    answer = CliRunner().invoke(app, ["clean", "--workdir", str(root), *arguments])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@contextmanager
def new_version():
    """A version of cliptea in which the same settings give another student."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VERSIONS, "train", VERSIONS["train"] + 1)
        yield


def test_an_output_of_an_earlier_version_stays_unread_until_clean_removes_it(work):
    root, client = work
    store, old, shared = FileStore(root / "store"), student(), past_runs.output("tokens", "shared")
    for output in (old, shared):
        past_runs.make(store, output)
    past_runs.record(store, add_run(client, hours=2), [old, shared])
    before = {key: store.get(key) for key in keys(store)}
    with new_version():
        new = student()
        assert new.fingerprint != old.fingerprint
        assert find(store, new) is None  # so that the step makes it
    assert {key: store.get(key) for key in keys(store)} == before
    past_runs.make(store, new)
    past_runs.record(store, add_run(client), [new, shared])

    assert find(store, student()).output == old  # the earlier version still finds its output
    with new_version():
        assert find(store, student()).output == new
        assert re.search(r"^ *train +1 +3 +", clean(root), re.MULTILINE)
        assert find(store, old) is not None  # only shown
        clean(root, "--yes")
        assert find(store, student()).output == new
    assert find(store, shared) is not None
    assert not [key for key in keys(store) if key.startswith(f"{old.prefix}/")]
    assert find(store, student()) is None  # the earlier version would make it again
