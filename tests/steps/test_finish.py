"""The exit handler as KFP calls it: the MLflow run has the pipeline run's true end, and the webhook is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from cliptea import settings
from cliptea.cluster.unchanged import skip
from cliptea.runs import Run
from cliptea.steps.finish import finish
from cliptea.tracking.client import connect
from cliptea.tracking.runs import open_parent


@pytest.fixture(scope="module", autouse=True)
def _mlflow(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}")
        patch.delenv("CLIPTEA_EVENTS", raising=False)  # as on a cluster: every submission is a run of its own
        patch.delenv("CLIPTEA_ALIVE", raising=False)
        yield


@pytest.fixture
def told(monkeypatch):
    """What a webhook was told."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("CLIPTEA_WEBHOOK", f"http://127.0.0.1:{server.server_port}/secret-part")
    yield bodies
    server.shutdown()
    server.server_close()


def started(job_id):
    config = settings.load("smoke")
    run = Run(config=config, data_digest="d", fingerprint="f", job_id=job_id, tracking_run="", variants=[])
    return run.model_copy(update={"tracking_run": open_parent(run)})


def end(job_id, state, error=None, skip_unchanged=False):
    finish.python_func(job_id, skip_unchanged, SimpleNamespace(state=state, error_message=error))


@pytest.mark.parametrize(("state", "status"), [("FAILED", "FAILED"), ("CANCELED", "FAILED"), ("SUCCEEDED", "FINISHED")])
def test_the_end_of_a_run(told, state, status):
    run = started(f"job-{state}")
    end(run.job_id, state, "train failed" if state == "FAILED" else None)
    tracked = connect().get_run(run.tracking_run)
    assert tracked.info.status == status
    assert tracked.data.tags.get("cliptea.error") == ("train failed" if state == "FAILED" else None)
    (body,) = told
    assert (body["job_id"], body["state"], body["mlflow_run_id"]) == (run.job_id, state, run.tracking_run)


def test_a_skipped_run_has_succeeded(told):
    end(started("first").job_id, "SUCCEEDED")
    second = started("second")
    assert skip(second)
    end("second", "FAILED", skip_unchanged=True)  # as KFP sees steps that never began
    assert connect().get_run(second.tracking_run).info.status == "FINISHED"
    assert [body["state"] for body in told] == ["SUCCEEDED", "SUCCEEDED"]


def test_a_run_that_failed_before_it_was_tracked(told):
    end("untracked", "FAILED", "resolve failed")
    assert [(body["state"], body["mlflow_run_id"]) for body in told] == [("FAILED", "")]


@pytest.mark.parametrize("skip_unchanged", [False, True])
def test_a_tracking_server_that_is_away_costs_no_notice(told, monkeypatch, capfd, skip_unchanged):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    end("job", "FAILED", skip_unchanged=skip_unchanged)
    said = capfd.readouterr().err
    assert "warning: MLflow shows this run as RUNNING until its settings run again: MLflow does not answer at" in said
    assert [body["state"] for body in told] == ["FAILED"]
