"""MLflow as one machine has it, a SQLite file, and as a cluster has it, a server; tests of tracking run with both."""

import shutil
import uuid

import mlflow_server
import pytest
from mlflow import MlflowClient

from cliptea.tracking.address import EXPERIMENT

BOTH = ["sqlite", "server"]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if reason := mlflow_server.missing():
        pytest.skip(reason)
    with mlflow_server.running(tmp_path_factory.mktemp("server")) as started:
        yield started


def _fresh(request, folder):
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('empty_database'), folder)}"
    uri = request.getfixturevalue("server").uri
    client = MlflowClient(uri)
    if before := client.get_experiment_by_name(EXPERIMENT):
        client.rename_experiment(before.experiment_id, str(uuid.uuid4()))
        client.delete_experiment(before.experiment_id)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    return uri


@pytest.fixture(params=BOTH)
def tracking_uri(request, tmp_path):
    """An MLflow without runs and models."""
    return _fresh(request, tmp_path)


@pytest.fixture(scope="module", params=BOTH)
def module_tracking_uri(request, tmp_path_factory):
    """The same, for all tests of a module."""
    return _fresh(request, tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def client(tracking_uri, monkeypatch, tmp_path):
    """Of the MLflow that the environment names, beside an empty store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    return MlflowClient(tracking_uri)
