"""How MLflow is reached, and the little that all of tracking needs of it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import Experiment, Param, Run
from mlflow.exceptions import MlflowException

from cliptea import progress
from cliptea.errors import ServerAway, StorageError
from cliptea.tracking.address import tracking_address

__all__ = [
    "EXPERIMENT", "TrackingError", "connect", "experiment_id", "find_run", "flatten", "log_params", "metric_name",
    "plugin_run", "told_later",
]  # fmt: skip

EXPERIMENT = "cliptea"
# Without the second MLflow's page takes the experiment for one of language models.
EXPERIMENT_TAGS = {
    "mlflow.note.content": "Students of cliptea: a run for each pipeline run, and below it one for each variant and "
    "seed. Compare `hiou`, the harmonic mean of seen and unseen mIoU.",
    "mlflow.experimentKind": "custom_model_development",
}
PARAMS_PER_CALL = 100  # the server's limit


class TrackingError(ServerAway):
    """MLflow cannot be reached."""


def connect() -> MlflowClient:
    """A client of MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: a password is part of the address, which MLflow's errors and the report repeat.
        TrackingError: it cannot be reached.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_address()
    if not uri:
        raise StorageError("MLFLOW_TRACKING_URI is not set", "sqlite:////absolute/mlflow.db or a server's address")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # the default keeps trying for minutes
    client = MlflowClient(uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise TrackingError(f"MLflow does not answer at {uri} ({_cause(error)})", "a running server") from None
    return client


@contextmanager
def told_later(what: str) -> Iterator[None]:
    """Let work go on that MLflow cannot be told of now; the next run of the same settings tells it.

    The block ends by noting below tracked/ in the store that MLflow was told.

    Args:
        what: is kept, as in "the scores".
    """
    try:
        yield
    except (TrackingError, MlflowException, OSError) as error:
        reason = error.what if isinstance(error, TrackingError) else " ".join(str(error).split())[:200]
        progress.warn(f"{what} are kept, and logged by the next run of these settings: {reason}")


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, without the lines that wrap it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__


def experiment_id(client: MlflowClient) -> str:
    """The experiment of all runs: the one that KFP's MLflow plug-in names, else our own.

    Our own is made at first, with artifacts beside a SQLite file.
    """
    if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return named
    found: Experiment | None = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    parsed = urlparse(client.tracking_uri)
    location = None
    if parsed.scheme == "sqlite":
        location = (Path(parsed.path[1:]).absolute().parent / "artifacts").as_uri()
    return client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)


def find_run(client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
    """The run that carries all the tags, if there is one."""
    query = " and ".join(f"tags.`{key}` = '{quote(value)}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id(client)], query, max_results=1)
    return runs[0] if runs else None


def plugin_run(client: MlflowClient) -> Run | None:
    """The pipeline run's own MLflow run where KFP's plug-in has made one: the outermost around that of this task."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    found: Run | None = None
    while run_id:
        found = client.get_run(run_id)
        run_id = found.data.tags.get("mlflow.parentRunId")
    return found


def quote(value: str) -> str:
    return value.replace("'", "")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as "train.lr": "0.002"."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return flat


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters; those that are there already stay."""
    items = [Param(key, value[:6000]) for key, value in params.items()]
    for chunk in chunks(items, PARAMS_PER_CALL):
        client.log_batch(run_id, params=chunk)


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def metric_name(name: str) -> str:
    """A class name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name)
