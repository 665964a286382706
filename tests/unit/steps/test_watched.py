"""A step gives signs of life while it works, and says why it failed: on the board in the store, and in MLflow."""

import shutil
import threading
import time

import pytest
from handed import artifact
from mlflow import MlflowClient

from cliptea import progress, settings
from cliptea.board import read_board
from cliptea.errors import DataError
from cliptea.run import Run, expand
from cliptea.steps import common, watched
from cliptea.storage import open_store
from cliptea.tracking.runs import ChildRun, open_parent


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, folder)}")
        patch.setenv("CLIPTEA_STORE", (folder / "store").as_uri())
        for name in ("CLIPTEA_EVENTS", "CLIPTEA_ALIVE", "CLIPTEA_RETRIES"):
            patch.delenv(name, raising=False)  # as on a cluster
        yield


@pytest.fixture
def client():
    return MlflowClient()


def plain(job_id, tracking_run=""):
    config = settings.load("smoke")
    variants, more = expand(config), {"job_id": job_id, "tracking_run": tracking_run}
    return Run(config=config, data_digest="d", fingerprint=job_id, variants=variants, **more)


def started(job_id):
    run = plain(job_id)
    return run.model_copy(update={"tracking_run": open_parent(run)})


def statuses(job_id):
    return {(status.step, status.label): status for status in read_board(open_store(), job_id)}


def test_the_board_shows_a_step_while_it_works_and_its_end(monkeypatch):
    monkeypatch.setattr("cliptea.board.BEAT_SECONDS", 0.05)
    seen = []

    def work(run):
        with progress.bar("training", 10, "it") as bar:
            bar.update(4, loss=0.5)
            bar.tell()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not (seen and seen[-1].beat > 2):
                seen.extend(statuses("board").values())
        progress.publish(report="s3://b/report.html")

    common.run_step("train", work, run=artifact(plain("board")), label="g/a")
    during, (after,) = seen[-1], statuses("board").values()
    assert (during.state, during.bar.done, during.bar.total, during.bar.values) == (
        "running",
        4,
        10,
        {"loss": 0.5},
    )
    assert (after.state, after.step, after.label, after.bar) == ("done", "train", "g/a", None)
    assert after.published == {"report": "s3://b/report.html"}
    assert after.beat > during.beat


def test_a_run_on_one_machine_has_no_board(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    common.run_step("split", lambda run: None, run=artifact(plain("local")))
    assert statuses("local") == {}


def test_a_failure_is_told_everywhere_and_ends_the_process_with_1(client, capfd):
    run = started("failing")
    child = ChildRun.open(run, run.variants[0])
    label = run.variants[0].label

    def work(run):
        raise DataError("the image a.png is 3 x 4", "5 x 6 as its mask")

    with pytest.raises(SystemExit) as ended:
        common.run_step("train", work, run=artifact(run), label=label)
    assert ended.value.code == 1
    text = "the image a.png is 3 x 4; expected 5 x 6 as its mask"
    assert f"error: {text}" in capfd.readouterr().err.splitlines()
    status = statuses("failing")["train", label]
    assert (status.state, status.text) == ("failed", text)
    parent, variant = client.get_run(run.tracking_run), client.get_run(child.run_id)
    assert parent.data.tags["cliptea.error"] == f"train {label}: {text}"
    assert (parent.info.status, variant.info.status) == ("RUNNING", "FAILED")  # the exit handler closes the run


def test_a_bug_is_told_as_well_and_keeps_its_traceback(client):
    run = started("bug")
    with pytest.raises(KeyError):
        common.run_step("split", lambda run: {}["x"], run=artifact(run))
    assert client.get_run(run.tracking_run).data.tags["cliptea.error"] == "split: KeyError: 'x'"


def test_a_failure_does_not_wait_for_a_silent_mlflow(monkeypatch):
    told, free = [], threading.Event()

    def mark_failed(*failure):
        told.append(failure)
        free.wait(60)  # a database that is frozen

    monkeypatch.setattr("cliptea.tracking.state.mark_failed", mark_failed)
    monkeypatch.setattr(watched, "TELL_SECONDS", 0.2)

    def work(run):
        raise DataError("the image a.png is damaged")

    began = time.monotonic()
    with pytest.raises(SystemExit):
        common.run_step("split", work, run=artifact(plain("silent", "run-1")))
    assert time.monotonic() - began < 30
    assert told == [("run-1", "split", "", "the image a.png is damaged")]
    free.set()


def test_a_step_that_is_stopped_is_no_failure(client):
    run = started("stopped")

    def work(run):
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        common.run_step("split", work, run=artifact(run))
    assert "cliptea.error" not in client.get_run(run.tracking_run).data.tags


def test_the_run_in_mlflow_has_a_heartbeat_as_long_as_a_step_works(client, monkeypatch):
    monkeypatch.setattr(watched, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(watched, "HEART_SECONDS", 0.05)
    run = started("beating")
    client.delete_tag(run.tracking_run, "cliptea.heartbeat")

    def heartbeat():
        return client.get_run(run.tracking_run).data.tags.get("cliptea.heartbeat")

    def work(run):
        deadline = time.monotonic() + 20
        while heartbeat() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert heartbeat() is not None

    common.run_step("split", work, run=artifact(run))
    time.sleep(0.3)
    client.delete_tag(run.tracking_run, "cliptea.heartbeat")
    time.sleep(0.3)
    assert heartbeat() is None


def test_resolve_beats_on_the_run_that_it_opens(client, monkeypatch):
    monkeypatch.setattr(watched, "FIRST_SECONDS", 0.05)
    run = started("published")
    client.delete_tag(run.tracking_run, "cliptea.heartbeat")

    def work():
        progress.publish(tracking_run=run.tracking_run)
        deadline = time.monotonic() + 20
        while "cliptea.heartbeat" not in client.get_run(run.tracking_run).data.tags and time.monotonic() < deadline:
            time.sleep(0.02)

    common.run_step("resolve", work, job_id="published")
    assert "cliptea.heartbeat" in client.get_run(run.tracking_run).data.tags


def test_news_that_cannot_be_told_cost_the_step_nothing(monkeypatch, capfd):
    monkeypatch.setenv("CLIPTEA_STORE", "s3://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
    assert common.run_step("split", lambda run: 7, run=artifact(plain("j", "r"))) == 7
    with pytest.raises(KeyError):
        common.run_step("split", lambda run: {}["x"], run=artifact(plain("j", "r")))
