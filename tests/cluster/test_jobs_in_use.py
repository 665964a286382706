"""The runs of a cluster that `cliptea clean` keeps, as a server that speaks KFP's API tells them."""

import past_runs
from mlflow import MlflowClient
from past_runs import add_run, keys, output
from typer.testing import CliRunner

from cliptea.tracking.run_times import Tag
from cliptea_pipeline import submit as submitting
from cliptea_pipeline.cli import app
from cliptea_pipeline.endpoint import Endpoint
from cliptea_pipeline.schedule import create, known_jobs


def add(pipelines, name, state, second, schedule=None):
    run = {"run_id": name, "display_name": name, "created_at": f"2026-01-01T00:00:{second:02}Z"}
    run |= {"state": state} if state else {}
    run |= {"recurring_run_id": schedule} if schedule else {}
    pipelines.held["runs"].append(run)


def fill(pipelines):
    """A weekly schedule with three runs, another one without any, and runs that were submitted or of others."""
    weekly = create(Endpoint(), "weekly", "@weekly", submitting.parameters("smoke", []))
    create(Endpoint(), "daily", "@daily", submitting.parameters("smoke", []))
    add(pipelines, "last", "SUCCEEDED", 30, weekly)
    add(pipelines, "first", "SUCCEEDED", 10, weekly)
    add(pipelines, "second", "FAILED", 20, weekly)
    add(pipelines, "submitted", "SUCCEEDED", 40)
    add(pipelines, "other", "SUCCEEDED", 50, "a-deleted-schedule")
    for number, state in enumerate(("RUNNING", "PENDING", "PAUSED", "CANCELING", None)):
        add(pipelines, f"active-{number}", state, number)


def test_active_runs_and_the_last_run_of_each_schedule_are_in_use(watching, pipelines):
    fill(pipelines)
    active = {f"active-{number}": "it is active in Kubeflow Pipelines" for number in range(5)}
    others = dict.fromkeys(("first", "second", "submitted", "other"), "")
    assert known_jobs(Endpoint()) == active | others | {"last": "it is the last run of the schedule weekly"}


def test_the_command_asks_the_endpoint(watching, pipelines, store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    fill(pipelines)
    jobs, made = ("first", "last", "active-0", "submitted", "of-another-namespace"), {}
    for job in jobs:
        tags = {Tag.KEY: job, Tag.JOB: job, Tag.FINGERPRINT: "f"}
        made[job] = output("train", job)
        past_runs.make(store, made[job])
        past_runs.record(store, add_run(client, hours=99, **tags), [made[job]], job)
    answer = CliRunner().invoke(app, ["clean", "--keep", "0", "--yes"])
    assert answer.exit_code == 0, answer.stderr
    assert {key.split("/")[1] for key in keys(store) if key.startswith("train/")} == {
        made["last"].fingerprint,
        made["active-0"].fingerprint,
        made["of-another-namespace"].fingerprint,
    }
    assert "kept: 1 run of a cluster that this Kubeflow Pipelines does not list" in answer.stdout
    monkeypatch.delenv("KFP_ENDPOINT")
    answer = CliRunner().invoke(app, ["clean", "--keep", "0"])
    assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", pipelines.url)  # its name in kfp's client
    assert CliRunner().invoke(app, ["clean", "--keep", "0"]).exit_code == 0
    assert "its schedules are not known here" in answer.stderr
    assert CliRunner().invoke(app, ["clean", "--keep", "0", "--endpoint", pipelines.url]).exit_code == 0
