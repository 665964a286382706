"""What tests of several folders start from."""

import pytest

from cliptea import outage


@pytest.fixture(autouse=True)
def _no_news():
    """No test tells of a server that was away in an earlier one."""
    outage.forget()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's SQLite file without runs, to be copied; making one takes MLflow seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
