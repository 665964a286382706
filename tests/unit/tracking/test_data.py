"""Data sets and tables in MLflow: logged once, read back by MLflow itself."""

import json
from pathlib import Path

import pytest

from cliptea import settings
from cliptea.manifest import Manifest
from cliptea.run import Run, expand
from cliptea.steps.split import DataEntry, Splits, log_splits
from cliptea.tracking.data_inputs import dataset_inputs
from cliptea.tracking.runs import ChildRun, log_table, open_parent


@pytest.fixture
def run(client):
    config = settings.load("smoke")
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="", variants=[])
    return run.model_copy(update={"tracking_run": open_parent(run)})


def test_data_sets_are_logged_once_with_their_counts(client, run, monkeypatch):
    counts = {"train": {"images": 3, "classes": {"cow": {"pixels": 7, "images": 2}}}}
    own = Manifest(kind="split", fingerprint="0123456789abcdef", info={"counts": counts})
    log_splits(run, Splits(own=own))
    with monkeypatch.context() as watched:
        watched.setattr(DataEntry, "log", lambda entry, run: pytest.fail("logged twice"))
        log_splits(run, Splits(own=own))
    (logged,) = client.get_run(run.tracking_run).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("demo", own.fingerprint)
    assert json.loads(logged.dataset.profile) == {"train": 3}
    folder = client.download_artifacts(run.tracking_run, "data/demo.json")
    assert json.loads(Path(folder).read_text())["counts"] == counts


def test_data_that_mlflow_cannot_be_told_of_are_told_later(client, run, monkeypatch, capsys):
    splits = Splits(own=Manifest(kind="split", fingerprint="f" * 16, info={"counts": {"train": {"images": 3}}}))
    monkeypatch.delenv("CLIPTEA_EVENTS")
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        down.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        down.setenv("CLIPTEA_PATIENCE", "0")
        log_splits(run, splits)
    assert "facts about the data could not be logged (" in capsys.readouterr().err
    assert client.get_run(run.tracking_run).inputs.dataset_inputs == []
    log_splits(run, splits)
    assert len(client.get_run(run.tracking_run).inputs.dataset_inputs) == 1


def test_a_variant_s_run_has_the_data_set_once_as_well(client, run):
    own = Manifest(kind="split", fingerprint="0123456789abcdef", info={"counts": {"train": {"images": 3}}})
    child = ChildRun.open(run, expand(run.config)[0])
    for _ in range(2):
        child.log_data(dataset_inputs(run.config, {"demo": own}))
    (logged,) = client.get_run(child.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("demo", own.fingerprint)
    assert {tag.key: tag.value for tag in logged.tags} == {"mlflow.data.context": "training"}


def test_a_table_logged_again_is_replaced_and_mlflow_reads_it(client, run):
    for number in (1, 2):
        rows = [{"variant": "full", "hiou": 0.5 * number}, {"variant": "no_ce", "hiou": 0.1}]
        log_table(run.tracking_run, rows, "t.json")
    log_table(run.tracking_run, [{"class": "cow"}], "u.json")
    experiment = client.get_run(run.tracking_run).info.experiment_id
    table = client.load_table(experiment, "t.json", [run.tracking_run])
    assert table.to_dict("records") == [{"variant": "full", "hiou": 1.0}, {"variant": "no_ce", "hiou": 0.1}]
    shown = json.loads(client.get_run(run.tracking_run).data.tags["mlflow.loggedArtifacts"])
    assert [entry["path"] for entry in shown] == ["t.json", "u.json"]
