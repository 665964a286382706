"""Training reports its progress to Kubeflow Trainer, here a server with its path, its answers and a CA of its own."""

import json
import ssl
import subprocess
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from certificates import self_signed
from kubeflow_trainer_api import models

from cliptea import progress
from cliptea.cluster.trainer_status import reporting

PATH = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs/cliptea-full/status"
NAMES = ("KUBEFLOW_TRAINER_SERVER_URL", "KUBEFLOW_TRAINER_SERVER_CA_CERT", "KUBEFLOW_TRAINER_SERVER_TOKEN")


@pytest.fixture(autouse=True)
def _without_trainer(monkeypatch):
    for name in (*NAMES, "CLIPTEA_EVENTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """What the server has been sent, and the code that it answers; the variables lead to it."""
    seen = SimpleNamespace(posts=[], code=200, token=tmp_path / "token")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.posts.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(seen.code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    certificate = self_signed(tmp_path)
    server = ThreadingHTTPServer(("localhost", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    seen.token.write_text("first\n")
    for name, value in zip(
        NAMES, (f"https://localhost:{server.server_port}{PATH}", certificate, seen.token), strict=True
    ):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")  # which is for addresses outside the cluster
    yield seen
    server.shutdown()
    server.server_close()


def train(done, total=8, name="training"):
    with progress.bar(name, total) as bar:
        for _ in range(done):
            bar.update(loss=0.25, lr=1e-3)


def test_progress_time_left_and_losses_are_in_the_form_of_trainer(trainer):
    begin = datetime.now(UTC).replace(microsecond=0)
    with reporting():
        train(3)
    first, last = (body["trainerStatus"] for _, _, body in trainer.posts)
    assert {(path, token) for path, token, _ in trainer.posts} == {(PATH, "Bearer first")}
    assert (first["progressPercentage"], first["metrics"]) == (0, [])
    assert "estimatedRemainingSeconds" not in first
    assert last["progressPercentage"] == 37  # 3 of 8
    assert last["metrics"] == [{"name": "loss", "value": "0.25"}, {"name": "lr", "value": "0.001"}]
    assert last["estimatedRemainingSeconds"] >= 0
    assert begin <= datetime.fromisoformat(last["lastUpdatedTime"]) <= datetime.now(UTC)
    for _, _, body in trainer.posts:
        known = models.TrainerV1alpha1UpdateTrainJobStatusRequest.from_dict(body).to_dict()
        assert known["trainerStatus"].keys() == body["trainerStatus"].keys()


def test_a_renewed_token_is_read_and_other_bars_are_not_reported(trainer):
    with reporting():
        train(8)
    trainer.token.write_text("second")
    with reporting():
        train(4, name="scoring")
        train(8)
    tokens = [token for _, token, _ in trainer.posts]
    assert tokens == ["Bearer first"] * 2 + ["Bearer second"] * 2
    assert trainer.posts[-1][2]["trainerStatus"]["progressPercentage"] == 100


@pytest.mark.parametrize("trouble", ["refused", "no token", "no text", "another CA", "away"])
def test_training_goes_on_and_says_once_why_nothing_is_shown(trainer, trouble, tmp_path, monkeypatch, capfd):
    if trouble == "refused":
        trainer.code = 403
    elif trouble == "no token":
        trainer.token.unlink()
    elif trouble == "no text":
        trainer.token.write_bytes(b"first\xff")
    elif trouble == "another CA":
        monkeypatch.delenv(NAMES[1])
    else:
        monkeypatch.setenv(NAMES[0], "https://localhost:1/status")
    with reporting():
        train(2)
        train(8)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "Kubeflow Trainer" in line]
    assert line.startswith("warning: Kubeflow Trainer does not take the progress of the TrainJob: ")
    assert len(trainer.posts) == (4 if trouble == "refused" else 0)
    assert "first" not in line


def test_an_error_of_training_is_not_hidden(trainer):
    with pytest.raises(ZeroDivisionError), reporting():
        raise ZeroDivisionError


@pytest.mark.parametrize("url", [None, ""])
def test_without_trainers_variables_nothing_is_sent(url, monkeypatch, capfd):
    if url is not None:
        monkeypatch.setenv(NAMES[0], url)
    with reporting():
        train(8)
    assert "Kubeflow Trainer" not in capfd.readouterr().err


PROCESS = """
import sys
from types import SimpleNamespace
from cliptea import progress
from cliptea.steps.train_process import _reported
run, variant = SimpleNamespace(job_id="j"), SimpleNamespace(label="a")
for follower, rank in ((object(), "0"), (object(), "1"), (None, "0")):
    with _reported(SimpleNamespace(follower=follower, run=run, variant=variant), rank):
        with progress.bar("training", 4) as bar:
            bar.update()
"""


def test_only_the_first_process_of_a_trainjob_reports(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    subprocess.run([sys.executable, "-c", PROCESS], check=True)
    assert [body["trainerStatus"]["progressPercentage"] for _, _, body in trainer.posts] == [0, 25]
