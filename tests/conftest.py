"""What tests of several folders start from."""

import os

import pytest

from cliptea import env, outage

# Several tests run at once, with more threads of torch than there are cores. Threads that sleep while they wait leave
# the cores to the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that fork training processes go first: other tests start threads of autograd, which forks cannot use."""
    forking = {item.path for item in items if "together" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in forking)


@pytest.fixture(autouse=True)
def _no_news():
    """No test tells of a server that was away in an earlier one."""
    outage.forget()


@pytest.fixture(autouse=True)
def _own_variables():
    """What a step or command in this process sets for itself, threads and the format of the log, ends with its test."""
    variables = (env.THREADS, env.OMP_NUM_THREADS, env.LOG_FORMAT)
    before = {variable.name: os.environ.get(variable.name) for variable in variables}
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
