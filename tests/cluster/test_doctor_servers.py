"""What `cliptea doctor` says of servers that start up, are in trouble, or are set up in a way that hurts."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

import certifi
import mlflow_server
import pytest
import yaml
from certificates import self_signed
from doctor_lines import CONTROLLER, PLACE, doctor, secret
from replay import recorded
from small_servers import served

from cliptea.tracking import state
from cliptea.tracking.address import CA_FILES, MlflowAway
from cliptea_pipeline import checks

pytestmark = pytest.mark.usefixtures("bare")
# As MLflow 3.17.2 answers a name that is not ASCII, with psycopg2 and a database in SQL_ASCII.
NOT_UTF8 = {
    "error_code": "INTERNAL_ERROR",
    "message": "'ascii' codec can't encode character '\\U0001f600' in position 0: ordinal not in range(128)",
}


@pytest.fixture
def certificate():
    return None


@pytest.fixture
def server(monkeypatch, certificate):
    """A server, named by MLFLOW_TRACKING_URI, and what it answers: status, type and body."""
    answers = {"status": 200, "kind": "application/json", "body": "{}", "not_ascii": None}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = parse_qs(urlsplit(self.path).query).get("filter", [""])[0]
            answer = answers
            if answers["not_ascii"] is not None and not asked.isascii():
                answer = answers | {"status": 500, "body": json.dumps(answers["not_ascii"])}
            self.send_response(answer["status"])
            self.send_header("Content-Type", answer["kind"])
            self.end_headers()
            self.wfile.write(answer["body"].encode())

    with served(Handler, certificate) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield answers


@pytest.mark.parametrize(
    ("status", "kind", "state", "says"),
    [
        (200, "application/json", "ok", "answers"),
        (503, "text/plain", "not ready", "answers 503: it is starting or failing"),
        (502, "text/html", "not ready", "answers 502: it is starting or failing"),
        (500, "application/json", "not ready", "answers 500: it is starting or failing"),
        (404, "text/html", "missing", "is not such a server (it answers 404): check MLFLOW_TRACKING_URI"),
        (200, "text/html", "missing", "is not such a server (it answers 200): check MLFLOW_TRACKING_URI"),
    ],
)
def test_an_mlflow_that_starts_up_and_a_server_that_is_none(server, status, kind, state, says):
    server |= {"status": status, "kind": kind}
    code, lines = doctor()
    assert (code, lines["MLflow"][0][0]) == (int(state != "ok"), state)
    assert says in lines["MLflow"][0][1]


def test_an_mlflow_that_nobody_finds(server, monkeypatch):
    for address, says in (("127.0.0.1:9", "nothing is listening there"), ("mlflow.invalid", "unknown host name")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
        code, lines = doctor()
        assert (code, lines["MLflow"][0][0]) == (1, "missing")
        assert says in lines["MLflow"][0][1]


class TestCertificates:
    """MLflow and the library of its requests have variables of their own for CA certificates."""

    @pytest.fixture
    def certificate(self, monkeypatch, tmp_path):
        for name in (*CA_FILES, "SSL_CERT_FILE", "MLFLOW_TRACKING_INSECURE_TLS"):
            monkeypatch.delenv(name, raising=False)
        return self_signed(tmp_path)

    def test_one_that_is_not_trusted_or_missing(self, server, monkeypatch, tmp_path):
        ca = "set REQUESTS_CA_BUNDLE to a file with the CA of its certificate"
        for file, says in (
            (certifi.where(), rf"self-signed certificate.*: {ca}"),
            (str(tmp_path / "none.pem"), "the file of CA certificates does not exist.*: correct SSL_CERT_FILE, REQ"),
        ):
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", file)
            ((state, text),) = looked_at()
            assert state == "missing"
            assert re.search(says, text)

    @pytest.mark.parametrize("name", [*CA_FILES, "SSL_CERT_FILE", "MLFLOW_TRACKING_INSECURE_TLS"])
    def test_one_that_a_variable_names(self, server, certificate, monkeypatch, name):
        for other in (*CA_FILES, "SSL_CERT_FILE")[(*CA_FILES, "SSL_CERT_FILE", name).index(name) + 1 :]:
            monkeypatch.setenv(other, certifi.where())  # counts less
        monkeypatch.setenv(name, "true" if "INSECURE" in name else str(certificate))
        assert looked_at()[0][0] == "ok"

    def test_a_proxy(self, server, monkeypatch):
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        assert "cannot be reached (the proxy does not connect)" in looked_at()[0][1]


def test_an_answer_that_breaks_off(server):
    server["body"] = "{"
    assert "is not such a server (it answers 200)" in looked_at()[0][1]


def looked_at():
    return [(found.state, found.text) for found in checks.mlflow()]


def _hang_up(listening):
    listening.accept()[0].close()


def test_an_mlflow_that_takes_the_request_and_says_nothing(server, monkeypatch):
    """As a port-forward does to a pod that does not listen yet."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        threading.Thread(target=_hang_up, args=(listening,), daemon=True).start()
        code, lines = doctor()
    assert (code, lines["MLflow"][0][0]) == (1, "not ready")
    assert "does not answer it" in lines["MLflow"][0][1]


def test_an_mlflow_whose_database_is_not_in_utf8(server):
    server["not_ascii"] = NOT_UTF8
    code, lines = doctor()
    assert (code, lines["MLflow"][0][0]) == (1, "missing")
    assert "has a PostgreSQL database that is not in UTF8" in lines["MLflow"][0][1]


@pytest.mark.skipif(bool(mlflow_server.missing()), reason=mlflow_server.missing())
@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII", "LATIN1"])
def test_a_postgresql_database_without_a_server(monkeypatch, encoding):
    with mlflow_server.postgresql(encoding) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        code, lines = doctor()
        assert (code, lines["MLflow"][0][0]) == (1, "missing")
        assert "holds a password" in lines["MLflow"][0][1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace(f":{mlflow_server.DATABASE_SECRET}", ""))
        monkeypatch.setenv("PGPASSWORD", mlflow_server.DATABASE_SECRET)
        code, lines = doctor()
    assert (code, lines["MLflow"][0][0]) == ((0, "ok") if encoding == "UTF8" else (1, "missing"))
    assert encoding in lines["MLflow"][0][1]
    assert mlflow_server.DATABASE_SECRET not in str(lines)


@pytest.mark.long
@pytest.mark.skipif(bool(mlflow_server.missing()), reason=mlflow_server.missing())
def test_a_real_mlflow_says_that_its_database_is_not_in_utf8(monkeypatch, tmp_path):
    with mlflow_server.running(tmp_path, "LATIN1") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        assert "has a PostgreSQL database that is not in UTF8" in doctor()[1]["MLflow"][0][1]


LOG = "SQLAlchemy engine could not be created.\ncannot use a string pattern on a bytes-like object\n"


@pytest.mark.parametrize(
    ("ready", "log", "state", "says"),
    [
        (True, "", "", ""),
        (False, LOG, "missing", "mlflow-a does not start: its PostgreSQL database is not in UTF8"),
        (False, "connection refused", "not ready", "read its log: kubectl -n team logs mlflow-a -c tables"),
    ],
)
def test_the_pod_of_our_own_mlflow(cluster, ready, log, state, says):
    labels = {"app.kubernetes.io/part-of": "cliptea", "app.kubernetes.io/component": "mlflow"}
    status = {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "initContainerStatuses": [{"name": "tables", "ready": ready, "image": "a", "imageID": "b", "restartCount": 4}],
    }
    cluster.pods = [{"metadata": {"name": "mlflow-a", "labels": labels}, "status": status}]
    cluster.logs = {"mlflow-a": log.splitlines()}
    code, lines = doctor()
    found = lines.get("MLflow pod", [("", "")])[0]
    assert (code, found[0]) == (int(not ready), state)
    assert says in found[1]


def controlled(cluster, **held):
    cluster.objects[PLACE]["data"] = held
    return doctor()[1]


def test_what_the_controller_of_workflows_does(cluster):
    lines = controlled(cluster, **CONTROLLER)
    assert lines["retries"][0][0] == lines["size"][0][0] == "ok"
    assert "does not rerun failed code (retryPolicy OnError); steps" in lines["retries"][0][1]
    assert "limited to 1 MiB, which is about 105 variants" in lines["size"][0][1]
    lines = controlled(cluster, config=yaml.safe_dump({"persistence": {"nodeStatusOffLoad": True}}))
    assert "may rerun failed code (retryPolicy not set)" in lines["retries"][0][1]
    assert "can have more than 105 variants" in lines["size"][0][1]
    del cluster.objects[PLACE]
    code, lines = doctor()
    assert (code, lines["retries"][0][0], "size" in lines) == (0, "cannot tell", False)


OUTPUT = {"mlflow": {"entries": {"root_run_id": {"value": "a"}}, "state": "PLUGIN_SUCCEEDED"}}


@pytest.mark.parametrize(
    ("on", "output", "state", "says"),
    [
        (False, {}, "", ""),
        (False, OUTPUT, "cannot tell", "Kubernetes refuses every step; set mlflow_plugin: true in the placement"),
        (True, OUTPUT, "ok", "Pipelines' MLflow plug-in tracks the runs and sets MLFLOW_TRACKING_URI"),
        (True, {}, "cannot tell", "no run here shows the plug-in's output yet; it must inject variables"),
    ],
)
def test_the_mlflow_plugin_of_pipelines(pipelines, tmp_path, on, output, state, says):
    pipelines.held["runs"] = [{"run_id": "r", "plugins_output": output} if output else {"run_id": "r"}]
    (tmp_path / "p.yaml").write_text(f"mlflow_plugin: {str(on).lower()}")
    code, lines = doctor("--endpoint", pipelines.url, "--placement", str(tmp_path / "p.yaml"))
    found = lines.get("plug-in", [("", "")])[0]
    assert (code, found[0]) == (0, state)
    assert says in found[1]


def test_the_secret_of_mlflow_is_optional_with_the_plugin(cluster, tmp_path):
    (tmp_path / "p.yaml").write_text("mlflow_plugin: true")
    for change in (lambda held, name: held.update({name: secret("MLFLOW_TRACKING_URI")}), dict.pop):
        change(cluster.objects, "/api/v1/namespaces/team/secrets/cliptea-mlflow")
        assert doctor("--placement", str(tmp_path / "p.yaml"))[0] == 0


LIVES = {"succeeded": "FINISHED", "skipped": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "": "RUNNING"}


def test_runs_that_ended_without_a_word_are_closed(pipelines, monkeypatch, server):
    asked = {}

    def sweep(ended):
        asked.update({job: ended(job) for job in ("r", "gone")})
        return ["voc12 (job r): cancelled"]

    monkeypatch.setattr(state, "close_silent_runs", sweep)
    pipelines.held["runs"] = [{"run_id": "r"}]
    for life, end in LIVES.items():
        pipelines.life = recorded(life or "succeeded")
        pipelines.stuck, pipelines.looks = (None, 1) if life else (0.5, 9)
        code, lines = doctor("--endpoint", pipelines.url)
        assert asked == {"r": end, "gone": None}, life
    assert (code, lines["runs"]) == (
        0, [("ok", "closed 1 run that had already ended: voc12 (job r): cancelled")],
    )  # fmt: skip
    pipelines.away = 100
    doctor("--endpoint", pipelines.url)
    assert asked == {"r": "RUNNING", "gone": "RUNNING"}
    pipelines.away, pipelines.token = 0, "of somebody else"
    doctor("--endpoint", pipelines.url)
    assert asked == {"r": "RUNNING", "gone": "RUNNING"}  # a run that nobody may see here may be active
    doctor("--endpoint", "http://127.0.0.1:9")
    assert asked == {"r": "RUNNING", "gone": "RUNNING"}
    monkeypatch.delenv("KFP_ENDPOINT")
    doctor()
    assert asked == {"r": None, "gone": None}  # without Pipelines nobody knows


def test_a_sweep_that_finds_nothing_or_fails_is_no_failure(monkeypatch, server):
    assert doctor()[1]["runs"] == [("ok", "MLflow shows no ended run as RUNNING")]

    def away(ended):
        raise MlflowAway("MLflow does not answer")

    monkeypatch.setattr(state, "close_silent_runs", away)
    code, lines = doctor()
    assert (code, lines["runs"][0][0]) == (0, "cannot tell")
