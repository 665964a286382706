"""Tags that say where a run comes from, and curves that a dead server does not stop."""

import subprocess
from pathlib import Path

import pytest

from cliptea import runs, settings
from cliptea.tracking import curves
from cliptea.tracking.origin import origin

ROOT = Path(__file__).resolve().parents[3]


def test_the_commit_is_that_of_the_checkout(monkeypatch):
    monkeypatch.delenv("CLIPTEA_COMMIT", raising=False)
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    assert origin("job")["git.commit"].removesuffix("-dirty") == head.stdout.strip()


def test_an_image_says_what_it_is_and_the_run_where_it_is_shown(monkeypatch):
    monkeypatch.setenv("CLIPTEA_COMMIT", "abc")
    monkeypatch.setenv("CLIPTEA_IMAGE", "cliptea@sha256:0")
    monkeypatch.setenv("CLIPTEA_KFP_URL", "http://kfp/pipeline/")
    tags = origin("job-1")
    assert (tags["git.commit"], tags["image"]) == ("abc", "cliptea@sha256:0")
    assert tags["kfp.pipeline_run_url"] == "http://kfp/pipeline/#/runs/details/job-1"


def test_a_server_that_is_down_costs_a_warning_and_no_curve(monkeypatch, tmp_path):
    config = settings.load("smoke")
    variant = runs.expand(config)[0]
    run = runs.Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="0", variants=[variant])
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    warnings = []
    monkeypatch.setattr(curves.progress, "warn", warnings.append)
    log = curves.curve_log(run, variant)
    points = [{"iteration": 2, "total": 1.5}]
    log(points)
    assert len(warnings) == 1
    assert "logged later" in warnings[0]

    from cliptea.tracking.runs import open_parent

    uri = f"sqlite:///{tmp_path}/mlflow.db"  # the server is back
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    log = curves.curve_log(run, variant)
    log(points)
    from mlflow import MlflowClient

    (child,) = MlflowClient(uri).search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.tracking_run}'")
    assert child.data.metrics["loss/total"] == 1.5
