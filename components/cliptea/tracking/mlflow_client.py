"""The connection to MLflow, and helper functions for the other modules of this package."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Param, Run
from mlflow.exceptions import MlflowException
from requests import RequestException

from cliptea.errors import TrackingError, one_line
from cliptea.outage import COMMAND_SECONDS, Outage, patience, untrusted
from cliptea.settings import flatten
from cliptea.tracking.address import EXPERIMENT, MlflowAway, tracking_address
from cliptea.tracking.database import artifact_folder, database_file, leave_folders, require_database

__all__ = [
    "EXPERIMENT", "connect", "experiment_id", "find_run", "log_params", "metric_name", "persist",
    "plugin_run",
]  # fmt: skip

Result = TypeVar("Result")
# Without the second tag, MLflow's user interface treats the experiment as one for language models.
EXPERIMENT_TAGS = {
    "mlflow.note.content": "Students of cliptea: a run for each pipeline run, and below it one for each variant and "
    "seed. Compare `hiou`, the harmonic mean of seen and unseen mIoU.",
    "mlflow.experimentKind": "custom_model_development",
}
PARAMS_PER_CALL = 100  # the server's limit


def connect() -> MlflowClient:
    """A client for MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: the address contains a password, which MLflow's errors and the report would show.
        TrackingError: MLflow cannot be reached; see `persist`.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_address()
    if not uri:
        raise TrackingError(
            "MLFLOW_TRACKING_URI is not set", "sqlite:////absolute/mlflow.db or the address of a server"
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default waits for minutes; `persist` waits
    try:
        if not _is_server(uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 5  # with pauses of 3 seconds in total, instead of 100 by default
            leave_folders()
            if file := database_file(uri):
                require_database(file)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow does not wrap errors of the database libraries
        raise MlflowAway(_cause(error), _may_pass(error)) from None
    return client


def persist(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Return the result of `work`, which uses MLflow, and retry it while MLflow is not available.

    For a database instead of a server, the limit is ten seconds, because a database does not restart.

    Args:
        work: the function to call. It must be safe to call it again.
        seconds: how long to wait for MLflow. The default and the maximum are `cliptea.outage.patience()`.

    Raises:
        TrackingError: MLflow is not available for longer than that, or (not temporary) it rejects a request.
    """
    uri = tracking_address()
    limits = [patience(), *([] if seconds is None else [seconds]), *([] if _is_server(uri) else [COMMAND_SECONDS])]
    absence = Outage(f"MLflow at {uri}", min(limits))
    while True:
        try:
            done = work()
        except MlflowAway as error:
            failure = error
        except (MlflowException, OSError) as error:
            failure = MlflowAway(_cause(error), _may_pass(error))
        else:
            absence.over()
            return done
        if not failure.temporary or not absence.wait(failure.reason):
            raise failure from None


def _is_server(uri: str) -> bool:
    return uri.startswith("http")


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed. Rejected requests and errors of this machine are permanent."""
    if any(untrusted(cause) for cause in _causes(error)):
        return False
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # 500 if there was no answer
    elif isinstance(error, RequestException):  # from artifact requests
        status = 500 if error.response is None else error.response.status_code
    else:
        return False
    return status >= 500 or status in (408, 429)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, down to the innermost one."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, in one line."""
    *_, last = _causes(error)
    return one_line(last)[:200] or type(last).__name__


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment for all runs: the one from KFP's MLflow plug-in, or else our own.

    Our own experiment is created on first use. For a SQLite file, its artifacts are stored next to the file.
    """
    if named := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return named
    found: Experiment | None = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return found.experiment_id
    file = database_file(client.tracking_uri)
    location = artifact_folder(file).as_uri() if file else None
    try:
        return client.create_experiment(EXPERIMENT, artifact_location=location, tags=EXPERIMENT_TAGS)
    except MlflowException:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found.experiment_id  # another run has just created it


def find_run(client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
    """A run with all of these tags, or None."""
    query = " and ".join(f"tags.`{key}` = '{quote(value)}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id(client)], query, max_results=1)
    return runs[0] if runs else None


def plugin_run(client: MlflowClient) -> Run | None:
    """The MLflow run that KFP's plug-in created for the pipeline run, or None. It is the outermost parent run."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    found: Run | None = None
    while run_id:
        found = client.get_run(run_id)
        run_id = found.data.tags.get("mlflow.parentRunId")
    return found


def quote(value: str) -> str:
    return value.replace("'", "")


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log nested parameters as "train.lr": "0.002", without empty mappings. Existing parameters are kept."""
    items = [Param(key, str(value)[:6000]) for key, value in flatten(params).items() if value != {}]
    for chunk in chunks(items, PARAMS_PER_CALL):
        client.log_batch(run_id, params=chunk)


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def metric_name(name: str) -> str:
    """A class name in which characters that MLflow does not allow are replaced."""
    return re.sub(r"[^\w\-. :/]", "_", name)
