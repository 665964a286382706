"""What tests of several folders start from."""

import pytest


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """MLflow's SQLite file without runs, to be copied; making one takes MLflow seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file
