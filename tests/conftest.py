"""What tests of several folders start from."""

import os

import pytest

from cliptea import env, outage


@pytest.fixture(autouse=True)
def _no_news():
    """No test tells of a server that was away in an earlier one."""
    outage.forget()


@pytest.fixture(autouse=True)
def _own_threads():
    """A step that a test runs in this process divides the cores for itself, and not for later tests."""
    before = {variable.name: os.environ.get(variable.name) for variable in (env.THREADS, env.OMP_NUM_THREADS)}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's SQLite file without runs, to be copied; making one takes MLflow seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
