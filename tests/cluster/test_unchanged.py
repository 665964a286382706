"""Which scheduled runs are skipped, by a real MLflow on SQLite."""

import functools
import shutil

import pytest
from mlflow import MlflowClient

from cliptea import settings
from cliptea.run import Run
from cliptea.steps.finish import finish_run
from cliptea.steps.resolve import skip
from cliptea.tracking.runs import open_parent


@pytest.fixture(scope="module", autouse=True)
def _mlflow(tmp_path_factory, empty_database):
    file = shutil.copy(empty_database, tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{file}")
        patch.delenv("CLIPTEA_EVENTS", raising=False)  # as on a cluster: every submission is a run of its own
        yield


def started(job_id, fingerprint):
    config = settings.load("smoke")
    run = Run(config=config, data_digest="d", fingerprint=fingerprint, job_id=job_id, tracking_run="", variants=[])
    return run.model_copy(update={"tracking_run": open_parent(run)})


def test_a_run_is_skipped_after_one_of_its_fingerprint_that_succeeded():
    assert not skip(started("a1", "a"))
    assert not skip(started("a2", "a"))  # the first is at work still
    finish_run("a1", "FAILED", "")
    finish_run("a2", "COMPLETE", "")
    third = started("a3", "a")
    assert skip(third)
    finish_run("a3", "RUNNING", "")  # as a cluster says of a skipped run
    assert skip(started("a4", "a"))
    assert not skip(started("b1", "b"))  # other data or settings


def test_failures_and_skipped_runs_are_no_reason():
    finish_run(started("c1", "c").job_id, "FAILED", "")
    assert not skip(started("c2", "c"))


def test_a_run_that_succeeded_is_found_behind_any_number_of_skipped_ones(monkeypatch):
    pages_of_two = functools.partialmethod(MlflowClient.search_runs, max_results=2)
    monkeypatch.setattr(MlflowClient, "search_runs", pages_of_two)
    runs = [started(f"d{number}", "d") for number in range(5)]
    finish_run("d0", "COMPLETE", "")
    assert all(skip(run) for run in runs[1:])
