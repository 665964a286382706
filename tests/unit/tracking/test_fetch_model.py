"""Why a model could not be downloaded: it does not exist, its server is away, or this machine cannot keep it."""

import builtins
import errno
import json
import os
import re
import tempfile
from http.server import BaseHTTPRequestHandler

import pytest
from small_servers import served

from cliptea import outage
from cliptea.errors import TrackingError
from cliptea.tracking.address import MlflowAway
from cliptea.tracking.mlflow_client import persist
from cliptea.tracking.model import exact_version, fetch_model

URI = "models:/world/1"
CODES = {403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST", 503: "TEMPORARILY_UNAVAILABLE"}


@pytest.fixture
def mlflow(monkeypatch):
    """A server with a model of two files: the statuses that it answers for the version, its list and its files."""

    class Server(BaseHTTPRequestHandler):
        status, waits = {"version": 200, "list": 200, "file": 200}, {}

        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer()

        def answer(self):
            kind, said = "version", {"artifact_uri": "mlflow-artifacts:/1/model", "model_version": {"version": "1"}}
            if "/experiments/search" in self.path:
                kind, said = "", {}
            elif "mlflow-artifacts" in self.path:
                kind = "list" if "path=" in self.path else "file"
                said = {"files": [{"path": name, "is_dir": False, "file_size": 9} for name in ("a.json", "b.json")]}
            left = self.waits.get(kind, 1)
            self.waits[kind] = left - 1
            code = self.status.get(kind, 200) if left > 0 else 200
            body = json.dumps(said if code == 200 else {"error_code": CODES[code]})
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(outage, "FIRST_PAUSE", 0.05)
    with served(Server) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield Server


def fetched():
    with fetch_model(URI) as folder:
        return sorted(file.name for file in folder.iterdir() if file.suffix == ".json")


def test_a_model_is_downloaded(mlflow):
    assert fetched() == ["a.json", "b.json"]


@pytest.mark.parametrize("kind", ["version", "list", "file"])
@pytest.mark.parametrize("status", [404, 403, 503])
def test_what_the_server_answers_is_told_as_what_it_is(mlflow, kind, status):
    mlflow.status[kind], mlflow.waits[kind] = status, 1000
    with pytest.raises(TrackingError) as caught:
        fetched()
    text = str(caught.value)
    assert "\n" not in text
    assert (f"the model {URI} does not exist" in text) is (status == 404)
    assert ("MLflow does not answer at" in text) is caught.value.temporary is (status == 503)
    assert (f"the model {URI} cannot be downloaded from" in text) is (status == 403)


@pytest.mark.parametrize("kind", ["version", "list", "file"])
def test_a_server_of_artifacts_that_is_away_is_waited_for(mlflow, kind):
    mlflow.status[kind], mlflow.waits[kind] = 503, 3
    assert persist(fetched, 60) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota of this user is used up"),
        (errno.EACCES, "this user may not do that"),
    ],
)
@pytest.mark.parametrize("place", ["folder", "file"])
def test_errors_of_this_machine_are_told_as_such(mlflow, monkeypatch, number, says, place):
    opened = builtins.open

    def refuse(path, *arguments, **options):
        if place == "folder" or "wb" in arguments:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **options)

    if place == "folder":
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    else:
        monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(TrackingError, match=f"the model {URI} cannot be downloaded: {re.escape(says)} .*; ") as caught:
        persist(fetched, 60)
    assert not isinstance(caught.value, MlflowAway)


def test_an_error_in_the_block_is_not_one_of_the_download(mlflow):
    with pytest.raises(OSError, match="of the block"), fetch_model(URI):
        raise OSError("of the block")


@pytest.mark.parametrize(("status", "says"), [(404, "does not exist"), (503, "does not answer")])
def test_the_version_of_an_alias(mlflow, status, says):
    assert exact_version("models:/world@champion") == URI
    mlflow.status["version"], mlflow.waits["version"] = status, 1000
    with pytest.raises(TrackingError, match=says):
        exact_version("models:/world@champion")
