"""Runs that ended without a word are closed by the next one that looks; runs at work are left alone."""

import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from cliptea import settings
from cliptea.board import StepStatus, status_key
from cliptea.errors import ServerAway
from cliptea.run import Run, expand
from cliptea.steps.resolve import start_run
from cliptea.storage import open_store
from cliptea.tracking import state
from cliptea.tracking.address import EXPERIMENT
from cliptea.tracking.runs import ChildRun, open_parent
from cliptea.tracking.state import (
    beat,
    close_job,
    close_silent_runs,
    mark_complete,
    mark_failed,
    mark_stopped,
    run_address,
)

HEARTBEAT = "cliptea.heartbeat"


def started(job_id):
    config = settings.load("smoke")
    variants = expand(config)
    run = Run(config=config, data_digest="d", fingerprint=job_id, job_id=job_id, tracking_run="", variants=variants)
    return run.model_copy(update={"tracking_run": open_parent(run)})


def silent(client, run, **since):
    """As if the last sign of life had come long ago."""
    last = datetime.now(UTC) - timedelta(**since)
    client.set_tag(run.tracking_run, HEARTBEAT, last.isoformat(timespec="seconds"))


def status(client, run_id):
    return client.get_run(run_id).info.status


def test_a_run_without_a_sign_of_life_is_closed_with_its_variants_and_the_reason(client):
    run, alive = started("gone"), started("alive")
    open_one, done = (
        ChildRun.open(run, v) for v in (run.variants[0], run.variants[0].model_copy(update={"label": "b"}))
    )
    done.finish()
    silent(client, run, minutes=61)
    silent(client, alive, minutes=59)
    (line,) = close_silent_runs()
    assert "closed as KILLED; no heartbeat for 1 h 01 min" in line
    states = [status(client, one) for one in (run.tracking_run, open_one.run_id, done.run_id, alive.tracking_run)]
    assert states == ["KILLED", "KILLED", "FINISHED", "RUNNING"]
    for one in (run.tracking_run, open_one.run_id):
        assert "no heartbeat for 1 h 01 min" in client.get_run(one).data.tags["mlflow.note.content"]
    assert close_silent_runs() == []


def test_one_that_never_had_a_heartbeat_is_as_old_as_its_start(client):
    run = started("old")
    client.delete_tag(run.tracking_run, HEARTBEAT)
    assert close_silent_runs() == []
    assert status(client, run.tracking_run) == "RUNNING"


@pytest.mark.parametrize(
    ("says", "minutes", "end"),
    [
        ("KILLED", 4, "KILLED"),
        ("FAILED", 4, "FAILED"),
        ("FINISHED", 4, "FINISHED"),
        ("KILLED", 2, "RUNNING"),
        ("RUNNING", 600, "RUNNING"),
        (None, 59, "RUNNING"),
        (None, 61, "KILLED"),
    ],
)
def test_what_pipelines_says_of_the_job_comes_before_silence(client, says, minutes, end):
    run, asked = started("job"), []
    silent(client, run, minutes=minutes)
    told = close_silent_runs(lambda job_id: asked.append(job_id) or says)
    assert status(client, run.tracking_run) == end
    assert bool(told) == (end != "RUNNING")
    assert asked == (["job"] if minutes > 3 else [])
    assert ("cliptea.error" in client.get_run(run.tracking_run).data.tags) == (end in ("KILLED", "FAILED"))


def write(job_id, step, state, ago=0.0, text=""):
    now = time.time() - ago
    body = StepStatus(step=step, state=state, started=now, updated=now, text=text).model_dump_json()
    open_store().put(status_key(job_id, step), body.encode())


@pytest.mark.parametrize(
    ("step", "state", "ago", "says", "end"),
    [
        ("train", "running", 60, None, "RUNNING"),  # MLflow was away, and the step is at work
        ("train", "running", 3700, None, "KILLED"),
        ("promote", "done", 3700, None, "FINISHED"),
        ("train", "failed", 3700, None, "FAILED"),
        ("train", "failed", 3700, "FINISHED", "FINISHED"),  # at its second try it did not
    ],
)
def test_what_the_steps_wrote_to_the_store_is_a_sign_of_life_and_of_the_end(client, step, state, ago, says, end):
    run = started("boarded")
    silent(client, run, hours=5)
    write("boarded", step, state, ago, "no space left")
    close_silent_runs(lambda job_id: says)
    assert status(client, run.tracking_run) == end
    why = client.get_run(run.tracking_run).data.tags.get("cliptea.error", "")
    assert ("train: no space left" in why) == (end == "FAILED")


def test_a_store_that_is_away_is_asked_once(client, monkeypatch):
    asked = []

    def away(store, job_id):
        asked.append(job_id)
        raise ServerAway("away")

    monkeypatch.setattr(state, "read_board", away)
    for job in ("one", "two", "three"):
        silent(client, started(job), hours=5)
    assert len(close_silent_runs()) == 3
    assert len(asked) == 1


def test_reasons_are_neither_stale_nor_overwritten(client):
    run = started("retried")
    mark_failed(run.tracking_run, "train", "", "boom")
    mark_complete(run.tracking_run)
    assert not client.get_run(run.tracking_run).data.tags.keys() & {"cliptea.error", "mlflow.note.content"}
    run = started("promoted")
    mark_failed(run.tracking_run, "train", "", "boom")
    client.set_tag(run.tracking_run, "mlflow.note.content", "**Ship this:** a student")  # after another attempt
    mark_complete(run.tracking_run)
    tags = client.get_run(run.tracking_run).data.tags
    assert tags["mlflow.note.content"] == "**Ship this:** a student"
    assert "cliptea.error" not in tags
    run = started("told")
    mark_failed(run.tracking_run, "train", "g/a", "out of memory")
    close_job("told", "KILLED", "cancelled by cliptea cancel")
    assert client.get_run(run.tracking_run).data.tags["cliptea.error"] == "train g/a: out of memory"


def test_a_run_that_ends_while_others_are_swept_keeps_its_end(client):
    runs_ = [started("first"), started("second")]
    for run in runs_:
        silent(client, run, hours=5)

    def ended(job_id):
        for run in runs_:
            client.set_terminated(run.tracking_run, "FAILED")

    assert close_silent_runs(ended) == []
    assert [status(client, run.tracking_run) for run in runs_] == ["FAILED", "FAILED"]


def test_a_run_that_was_only_waiting_is_open_again_at_its_next_heartbeat(client):
    run = started("gated")
    silent(client, run, hours=5)
    assert len(close_silent_runs()) == 1
    beat(run.tracking_run)
    tags = client.get_run(run.tracking_run).data.tags
    assert status(client, run.tracking_run) == "RUNNING"
    assert not tags.keys() & {"cliptea.error", "cliptea.swept", "mlflow.note.content"}
    assert close_silent_runs() == []


def test_a_heartbeat_opens_no_run_that_was_closed_by_its_end(client):
    run = started("stopped")
    mark_stopped(run.tracking_run)
    beat(run.tracking_run)
    assert status(client, run.tracking_run) == "KILLED"


def test_a_complete_run_is_not_stopped_afterwards(client):
    run = started("complete")
    mark_complete(run.tracking_run)
    mark_stopped(run.tracking_run)
    assert status(client, run.tracking_run) == "FINISHED"
    assert "mlflow.note.content" not in client.get_run(run.tracking_run).data.tags


@pytest.mark.parametrize(("parent", "variant"), [("FAILED", "KILLED"), ("KILLED", "KILLED"), ("FINISHED", "FINISHED")])
def test_a_variant_does_not_outlive_its_pipeline_run(client, parent, variant):
    run = started("closed by another")
    child = ChildRun.open(run, run.variants[0])
    assert close_silent_runs() == []
    client.set_terminated(run.tracking_run, parent)
    (line,) = close_silent_runs()
    assert line.endswith(f"closed as {variant}; its pipeline run has ended")
    assert [status(client, one) for one in (run.tracking_run, child.run_id)] == [parent, variant]


def test_more_runs_than_a_page_holds(client, monkeypatch):
    search = type(client).search_runs
    small = lambda self, *a, **k: search(self, *a, **(k | {"max_results": 2}))  # noqa: E731
    monkeypatch.setattr(type(client), "search_runs", small)
    for number in range(5):
        silent(client, started(f"many-{number}"), days=3)
    told = close_silent_runs()
    assert len(told) == 5
    assert "for 3 days" in told[0]


def test_every_new_run_sweeps(client):
    run = started("before")
    silent(client, run, hours=2)
    start_run("smoke", [], "next")
    assert status(client, run.tracking_run) == "KILLED"


def test_a_job_is_closed_by_its_id_once(client):
    run = started("cancelled")
    child = ChildRun.open(run, run.variants[0])
    assert len(close_job("cancelled", "KILLED", "cancelled by hand")) == 2
    for one in (run.tracking_run, child.run_id):
        assert status(client, one) == "KILLED"
        assert "cancelled by hand" in client.get_run(one).data.tags["cliptea.error"]
    assert close_job("cancelled", "KILLED", "again") == []
    assert close_job("unknown", "KILLED", "never tracked") == []


def test_a_command_never_takes_the_run_of_a_shell_for_that_of_the_job(client, on_a_cluster, monkeypatch):
    mine = client.create_run(client.create_experiment(on_a_cluster)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", mine)
    assert close_job("not yet tracked", "KILLED", "cancelled by cliptea cancel") == []
    assert run_address("not yet tracked") is None
    run = client.get_run(mine)
    assert (run.info.status, "cliptea.error" in run.data.tags) == ("RUNNING", False)


@pytest.fixture
def on_a_cluster(client, monkeypatch):
    """Where MLFLOW_EXPERIMENT_NAME counts, and our own experiment is not there yet."""
    monkeypatch.delenv("CLIPTEA_EVENTS")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return f"team-{uuid.uuid4()}"


@pytest.mark.parametrize("steps", [True, False])
def test_the_steps_and_a_command_that_name_different_experiments(client, on_a_cluster, monkeypatch, steps):
    if steps:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", on_a_cluster)
    run = started(f"elsewhere {steps}")
    child = ChildRun.open(run, run.variants[0])
    if steps:
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    else:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", on_a_cluster)
    assert len(close_job(f"elsewhere {steps}", "KILLED", "cancelled by cliptea cancel")) == 2
    assert [status(client, one) for one in (run.tracking_run, child.run_id)] == ["KILLED", "KILLED"]


def test_a_sweep_of_a_command_that_names_another_experiment(client, on_a_cluster, monkeypatch):
    run = started("silent")
    silent(client, run, minutes=61)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", on_a_cluster)
    assert len(close_silent_runs()) == 1
    assert status(client, run.tracking_run) == "KILLED"


def test_looking_for_runs_makes_no_experiment_and_restores_none(client, on_a_cluster, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", on_a_cluster)
    assert (close_silent_runs(), close_job("nobody", "KILLED", "r"), run_address("nobody")) == ([], [], None)
    for name in (on_a_cluster, EXPERIMENT):
        assert client.get_experiment_by_name(name) is None
    deleted = client.create_experiment(on_a_cluster)
    client.delete_experiment(deleted)
    assert (close_silent_runs(), close_job("nobody", "KILLED", "r")) == ([], [])
    assert client.get_experiment(deleted).lifecycle_stage == "deleted"


def test_a_closed_run_keeps_its_state_when_its_variants_are_closed(client):
    run = started("finished")
    child = ChildRun.open(run, run.variants[0])
    client.set_terminated(run.tracking_run, "FAILED")
    assert len(close_job("finished", "KILLED", "late")) == 1
    assert [status(client, one) for one in (run.tracking_run, child.run_id)] == ["FAILED", "KILLED"]


def test_the_address_of_a_run_on_a_servers_pages(client, tracking_uri):
    run = started("addressed")
    experiment = client.get_run(run.tracking_run).info.experiment_id
    there = f"{tracking_uri}/#/experiments/{experiment}/runs/{run.tracking_run}"
    assert run_address("addressed") == (there if tracking_uri.startswith("http") else None)
    assert run_address("unknown") is None


def seconds(client, run_id):
    info = client.get_run(run_id).info
    return (info.end_time - info.start_time) / 1000


def test_the_duration_is_the_time_that_the_run_was_at_work(client):
    """A run that worked for two seconds, was left for an hour and has worked for three since then."""
    run = started("resumed")
    start = client.get_run(run.tracking_run).info.start_time
    client.set_terminated(run.tracking_run, "FINISHED", start + 2000)
    resumed = time.time() - 3
    open_parent(run)
    client.set_tag(run.tracking_run, "cliptea.began", datetime.fromtimestamp(resumed, UTC).isoformat())
    mark_complete(run.tracking_run)
    duration = seconds(client, run.tracking_run)
    assert 4.99 < duration < 2.01 + time.time() - resumed
    mark_complete(run.tracking_run)  # and says the same again
    assert seconds(client, run.tracking_run) == pytest.approx(duration, abs=0.01)


def test_the_duration_of_a_student_is_the_time_that_it_was_at_work(client):
    """Each student worked for two seconds, and for three since it was resumed, however it ends."""
    ends = {
        "fails": lambda run: mark_failed(run.tracking_run, "train", run.variants[0].label, "boom"),
        "stops": lambda run: mark_stopped(run.tracking_run),
        "is left": lambda run: (client.set_terminated(run.tracking_run, "FAILED"), close_silent_runs()),
    }
    for name, end in ends.items():
        run = started(name)
        child = ChildRun.open(run, run.variants[0])
        start = client.get_run(child.run_id).info.start_time
        client.set_terminated(child.run_id, "FAILED", start + 2000)
        ChildRun.open(run, run.variants[0])
        resumed = time.time() - 3
        client.set_tag(child.run_id, "cliptea.began", datetime.fromtimestamp(resumed, UTC).isoformat())
        client.set_tag(run.tracking_run, HEARTBEAT, datetime.now(UTC).isoformat())
        end(run)
        assert status(client, child.run_id) in ("FAILED", "KILLED"), name
        assert 4.99 < seconds(client, child.run_id) < 2.01 + time.time() - resumed, name


def test_silence_at_the_end_does_not_count(client):
    run = started("cut off")
    began = datetime.now(UTC) - timedelta(minutes=70)
    client.set_tag(run.tracking_run, "cliptea.began", began.isoformat())
    silent(client, run, minutes=61)
    close_silent_runs()
    assert seconds(client, run.tracking_run) == pytest.approx(9 * 60, abs=5)
