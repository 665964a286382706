"""The exit handler as Pipelines calls it: the MLflow run has the pipeline run's true end, and the webhook is told.

The states are those that were seen: COMPLETE, FAILED and RUNNING (of a skipped run) on a cluster with Pipelines 2.17,
where the exit task does not run for a cancelled one; SUCCEEDED and FAILED by kfp.local.
"""

import shutil
from types import SimpleNamespace

import pytest
import small_servers

from cliptea import settings
from cliptea.board import posting
from cliptea.progress import step
from cliptea.run import Run, expand
from cliptea.steps.finish import finish
from cliptea.steps.resolve import skip
from cliptea.storage import open_store
from cliptea.tracking.mlflow_client import connect
from cliptea.tracking.runs import ChildRun, open_parent
from cliptea.tracking.state import mark_complete, mark_failed


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, folder)}")
        patch.setenv("CLIPTEA_STORE", (folder / "store").as_uri())
        patch.delenv("CLIPTEA_EVENTS", raising=False)  # as on a cluster: every submission is a run of its own
        patch.delenv("CLIPTEA_ALIVE", raising=False)
        yield


told, webhook = small_servers.told, small_servers.webhook


def started(job_id, fingerprint=None):
    config = settings.load("smoke")
    run = Run(
        config=config, data_digest="d", fingerprint=fingerprint or job_id, job_id=job_id, tracking_run="",
        variants=expand(config),
    )  # fmt: skip
    return run.model_copy(update={"tracking_run": open_parent(run)})


def end(job_id, state, error=None):
    finish.python_func(job_id, SimpleNamespace(state=state, error_message=error))


def shown(run_id):
    return connect().get_run(run_id)


@pytest.mark.parametrize(
    ("state", "status", "word"),
    [
        ("COMPLETE", "FINISHED", "SUCCEEDED"),
        ("SUCCEEDED", "FINISHED", "SUCCEEDED"),
        ("CACHED", "FINISHED", "SUCCEEDED"),
        ("FAILED", "FAILED", "FAILED"),
        ("CANCELED", "KILLED", "CANCELED"),
    ],
)
def test_the_end_of_a_run(told, state, status, word):
    run = started(f"job-{state}")
    end(run.job_id, state, "train failed" if state == "FAILED" else None)
    tracked = shown(run.tracking_run)
    assert tracked.info.status == status
    assert tracked.data.tags.get("cliptea.error") == ("train failed" if state == "FAILED" else None)
    (body,) = told
    assert (body["job_id"], body["state"], body["mlflow_run_id"]) == (run.job_id, word, run.tracking_run)


def test_an_error_of_pipelines_has_no_secrets_and_control_characters(told):
    run = started("job-secret")
    end(run.job_id, "FAILED", "pull\nhttps://me:s3cr3t@host \x1b[31mfailed")
    assert shown(run.tracking_run).data.tags["cliptea.error"] == r"pull https://***@host \x1b[31mfailed"
    assert "s3cr3t" not in str(told)


@pytest.mark.parametrize("state", ["RUNNING", "UNKNOWN", "NEW", "PAUSED", ""])
def test_an_unknown_end_is_told_and_never_becomes_a_wrong_state(told, capfd, state):
    run = started(f"odd-{state}")
    end(run.job_id, state)
    assert shown(run.tracking_run).info.status == "RUNNING"
    assert f"warning: Pipelines reports the unknown state {state!r}" in capfd.readouterr().err
    assert [body["state"] for body in told] == [state]


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "SKIPPED"])  # of a cluster; of kfp.local
def test_a_skipped_run_has_ended_well_and_is_no_reason_to_skip_another(told, state):
    first = started(f"first-{state}", state)
    end(first.job_id, "COMPLETE")
    second = started(f"second-{state}", state)
    assert skip(second)
    assert shown(second.tracking_run).info.status == "FINISHED"  # before the exit handler says so
    end(second.job_id, state)
    assert shown(second.tracking_run).info.status == "FINISHED"
    assert [body["state"] for body in told] == ["SUCCEEDED", "SKIPPED"]
    third = started(f"third-{state}", state)
    assert skip(third)
    assert shown(third.tracking_run).data.tags["cliptea.skipped"] == first.tracking_run


def test_the_last_step_knows_better_than_pipelines(told):
    run = started("complete")
    mark_complete(run.tracking_run)
    assert shown(run.tracking_run).info.status == "FINISHED"
    end("complete", "UNKNOWN")
    assert shown(run.tracking_run).info.status == "FINISHED"
    assert [body["state"] for body in told] == ["SUCCEEDED"]


def test_a_run_that_goes_on_is_complete_no_more(told):
    mark_complete(started("again").tracking_run)
    again = started("again")
    assert shown(again.tracking_run).info.status == "RUNNING"
    end("again", "FAILED")
    assert shown(again.tracking_run).info.status == "FAILED"


def test_each_variant_has_its_own_true_end(told):
    run = started("variants")
    done, broken, stopped = (run.variants[0].model_copy(update={"label": label}) for label in ("g/a", "g/b", "g/c"))
    children = {variant.label: ChildRun.open(run, variant) for variant in (done, broken, stopped)}
    children["g/a"].finish()
    mark_failed(run.tracking_run, "train", "g/b", "the loss is not finite at iteration 7")
    end("variants", "FAILED")
    states = {label: shown(child.run_id) for label, child in children.items()}
    assert {label: state.info.status for label, state in states.items()} == {
        "g/a": "FINISHED",
        "g/b": "FAILED",
        "g/c": "KILLED",
    }
    assert states["g/b"].data.tags["cliptea.error"] == "train: the loss is not finite at iteration 7"
    parent = shown(run.tracking_run)
    assert parent.data.tags["cliptea.error"] == "train g/b: the loss is not finite at iteration 7"
    assert "the loss is not finite at iteration 7" in parent.data.tags["mlflow.note.content"]
    assert [body["error"] for body in told] == ["train g/b: the loss is not finite at iteration 7"]


def test_open_variants_of_a_run_that_ended_well_have_ended_well(told):
    run = started("open")
    child = ChildRun.open(run, run.variants[0])
    end("open", "COMPLETE")
    assert shown(child.run_id).info.status == "FINISHED"


def test_why_a_step_failed_is_read_from_the_board_when_mlflow_was_not_told(told):
    run = started("board")
    with pytest.raises(OSError, match="no space"), posting(open_store(), "board", "train", "g/a"), step("train", "g/a"):
        raise OSError("no space left")
    end("board", "FAILED")
    assert shown(run.tracking_run).data.tags["cliptea.error"] == "train g/a: OSError: no space left"
    assert [body["error"] for body in told] == ["train g/a: OSError: no space left"]


def test_a_run_that_failed_before_it_was_tracked(told):
    end("untracked", "FAILED", "resolve failed")
    assert [(body["state"], body["error"], body["mlflow_run_id"]) for body in told] == [
        ("FAILED", "resolve failed", "")
    ]


def test_a_tracking_server_that_is_away_costs_no_notice(told, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
    end("job", "FAILED")
    said = capfd.readouterr().err
    assert "MLflow will show this run as RUNNING until a later run closes it: MLflow does not answer at" in said
    assert [body["state"] for body in told] == ["FAILED"]


@pytest.mark.parametrize("uri", ["http://me:a-secret@127.0.0.1:9", ""])
def test_an_address_that_cannot_be_used_costs_no_notice(told, monkeypatch, capfd, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    end("job", "COMPLETE")
    assert "a-secret" not in capfd.readouterr().err
    assert [body["state"] for body in told] == ["SUCCEEDED"]
