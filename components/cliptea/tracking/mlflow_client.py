"""The connection to MLflow, and helper functions for the other modules of this package."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Param, Run
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import OperationalError

from cliptea import env, progress
from cliptea.data.catalogue import Catalogue
from cliptea.errors import ConfigError, TrackingError, one_line
from cliptea.messages import meaning
from cliptea.outage import COMMAND_SECONDS, Outage, patience, untrusted
from cliptea.settings import flatten
from cliptea.tracking.address import (
    CHECK,
    EXPERIMENT,
    OTHER,
    MlflowAway,
    database_trouble,
    is_database,
    tracking_address,
)
from cliptea.tracking.database import artifact_folder, database_file, leave_folders, require_database

__all__ = [
    "EXPERIMENT", "connect", "experiment_id", "find_run", "leftovers", "log_params", "metric_name", "persist",
    "plugin_run", "renamed_metrics",
]  # fmt: skip

Result = TypeVar("Result")
DELETED = "deleted"  # the stage of an experiment
# Without the second tag, MLflow's user interface treats the experiment as one for language models.
EXPERIMENT_TAGS = {
    "mlflow.note.content": "Students of cliptea: a run for each pipeline run, and below it one for each variant and "
    "seed. Compare `hiou`, the harmonic mean of seen and unseen mIoU.",
    "mlflow.experimentKind": "custom_model_development",
}
PARAMS_PER_CALL = 100  # the server's limit
LONGEST_NAME = 250  # characters of a metric or parameter
# Errors that no waiting mends: a pattern of MLflow's text, what it means, and what to do.
KNOWN = (
    (
        r"out-of-date database schema \(found version (\w+), but expected (\w+)",
        "its database was made by another version of MLflow: its schema is {} and not {}",
        "copy the database, then run `mlflow db upgrade {uri}`; or use the version of MLflow that made it",
    ),
    (
        r"Can't locate revision identified by '(\w+)'",
        "its database was made by a newer version of MLflow: this one does not know its schema {}",
        "use the version of MLflow that made it, or another database",
    ),
    (
        r"file is not a database|malformed|unable to open database file|readonly database",
        "its database is damaged, or cannot be read and written",
        "correct MLFLOW_TRACKING_URI or the permissions, or restore the database",
    ),
    (
        r"authentication failed for user|no password supplied|Access denied for user",
        "its database rejects the user or the password",
        "correct the user in MLFLOW_TRACKING_URI, and set the password in PGPASSWORD or the file of your database",
    ),
    (
        r"database \"([^\"]+)\" does not exist",
        "the database {} does not exist there",
        "create it, or correct MLFLOW_TRACKING_URI",
    ),
    (
        r"No module named '([\w.]+)'",
        "the Python package {} for it is not installed",
        "install that package, or use another address in MLFLOW_TRACKING_URI",
    ),
    (
        r"unsupported URI '([\w+.-]+)",
        "neither MLflow nor its plug-ins that are installed know addresses of {}",
        "correct MLFLOW_TRACKING_URI, or install the plug-in for it",
    ),
    (r"HTTP(?:Status)? ?(?:code )?401|Unauthorized|UNAUTHENTICATED", "it denies access", CHECK),
)


def connect() -> MlflowClient:
    """A client for MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: the address contains a password, which MLflow's errors and the report would show; or a variable of
            another job is left.
        TrackingError: MLflow cannot be reached; see `persist`.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_address()
    if not uri:
        raise TrackingError(
            "MLFLOW_TRACKING_URI is not set", "sqlite:////absolute/mlflow.db or the address of a server"
        )
    registry = os.environ.get("MLFLOW_REGISTRY_URI", uri)
    if registry.rstrip("/") not in ("", uri.rstrip("/")):
        raise ConfigError(
            f"MLFLOW_REGISTRY_URI={registry} is not the address in MLFLOW_TRACKING_URI",
            "runs and models in one MLflow",
            "unset MLFLOW_REGISTRY_URI",
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default waits for minutes; `persist` waits
    if trouble := database_trouble(uri):
        raise MlflowAway(trouble.what, trouble.temporary, trouble.todo)
    try:
        if is_database(uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 5  # with pauses of 3 seconds in total, instead of 100 by default
            leave_folders()
            if file := database_file(uri):
                require_database(file)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # MLflow does not wrap errors of the database libraries
        raise _away(error) from None
    return client


def _away(error: BaseException) -> MlflowAway:
    """What an error of MLflow means for its user."""
    texts = " ".join(str(cause) for cause in _causes(error))
    for pattern, reason, todo in KNOWN:
        if found := re.search(pattern, texts):
            return MlflowAway(reason.format(*found.groups()), False, todo.format(uri=tracking_address()))
    known = next((meant for cause in _causes(error) if (meant := meaning(cause))), None)
    if known is not None and not _may_pass(error):
        return MlflowAway(known[0], False, known[1])
    temporary, uri = _may_pass(error), tracking_address()
    behind_port = is_database(uri) and not database_file(uri)
    return MlflowAway(_cause(error), temporary, OTHER if temporary and behind_port else "")


def persist(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Return the result of `work`, which uses MLflow, and retry it while MLflow is not available.

    For a database instead of a server, the limit is ten seconds: a file does not restart, and others do so quickly.

    Args:
        work: the function to call. It must be safe to call it again.
        seconds: how long to wait for MLflow. The default and the maximum are `cliptea.outage.patience()`.

    Raises:
        TrackingError: MLflow is not available for longer than that, or (not temporary) it rejects a request.
    """
    uri = tracking_address()
    limits = [patience(), *([] if seconds is None else [seconds]), *([COMMAND_SECONDS] if is_database(uri) else [])]
    absence = Outage(f"MLflow at {uri}", min(limits))
    while True:
        try:
            done = work()
        except MlflowAway as error:
            failure = error
        except (MlflowException, OSError) as error:
            failure = _away(error)
        else:
            absence.over()
            return done
        if not failure.temporary or not absence.wait(failure.reason):
            raise failure from None


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed. Rejected requests and errors of this machine, such as of files, are permanent."""
    if any(untrusted(cause) for cause in _causes(error)):
        return False
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # 500 if there was no answer
    elif isinstance(error, RequestException):  # from artifact requests
        status = 500 if error.response is None else error.response.status_code
    elif isinstance(error, OperationalError):  # from a database that is just starting or ending
        status = 400 if database_file(tracking_address()) else 500
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

    Our own experiment is created on first use, and restored if it was deleted in MLflow. For a SQLite file, its
    artifacts are stored next to the file.

    Raises:
        ConfigError: the experiment of the plug-in does not exist, or is deleted.
    """
    if named := _of_plugin("MLFLOW_EXPERIMENT_ID"):
        with _refusing("MLFLOW_EXPERIMENT_ID", named, "an experiment"):
            if client.get_experiment(named).lifecycle_stage == DELETED:
                raise ConfigError(
                    f"the experiment {named} in MLFLOW_EXPERIMENT_ID is deleted in MLflow",
                    todo=f"restore it with `mlflow experiments restore --experiment-id {named}`, or unset the variable",
                )
        return named
    found: Experiment | None = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        if found.lifecycle_stage == DELETED:
            _restore(client, found.experiment_id)
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


def _restore(client: MlflowClient, experiment: str) -> None:
    try:
        client.restore_experiment(experiment)
    except MlflowException:
        if client.get_experiment(experiment).lifecycle_stage == DELETED:  # or else another run was faster
            raise TrackingError(
                f"the experiment {EXPERIMENT} was deleted in MLflow and cannot be restored",
                todo=f"restore it with `mlflow experiments restore --experiment-id {experiment}`, or rename it",
            ) from None
    else:
        progress.note(f"the experiment {EXPERIMENT} was deleted in MLflow and is restored")


def leftovers() -> list[str]:
    """Variables of KFP's MLflow plug-in and of MLflow that this run on one machine ignores."""
    names = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
    return [name for name in names if env.in_local_run() and os.environ.get(name)]


def _of_plugin(name: str) -> str:
    """A variable that KFP's MLflow plug-in sets in a pod. On one machine, it can only be left over from another job."""
    return "" if env.in_local_run() else os.environ.get(name, "")


@contextmanager
def _refusing(variable: str, value: str, what: str) -> Iterator[None]:
    """Say which variable named something that MLflow does not have."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ConfigError(
            f"{variable}={value} names {what} that MLflow at {tracking_address()} does not have",
            f"{what} there",
            f"correct {variable}, or unset it if it is left over from another job",
        ) from None


def find_run(client: MlflowClient, tags: Mapping[str, str]) -> Run | None:
    """A run with all of these tags, or None."""
    query = " and ".join(f"tags.`{key}` = '{quote(value)}'" for key, value in tags.items())
    runs = client.search_runs([experiment_id(client)], query, max_results=1)
    return runs[0] if runs else None


def plugin_run(client: MlflowClient) -> Run | None:
    """The MLflow run that KFP's plug-in created for the pipeline run, or None. It is the outermost parent run."""
    run_id = named = _of_plugin("MLFLOW_RUN_ID")
    found: Run | None = None
    with _refusing("MLFLOW_RUN_ID", named, "a run"):
        while run_id:
            found = run = client.get_run(run_id)
            run_id = run.data.tags.get("mlflow.parentRunId")
    return found


def quote(value: str) -> str:
    return value.replace("'", "")


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log nested parameters as "train.lr": "0.002", without empty mappings. Existing parameters are kept."""
    items = [Param(metric_name(key), str(value)[:6000]) for key, value in flatten(params).items() if value != {}]
    for chunk in chunks(items, PARAMS_PER_CALL):
        client.log_batch(run_id, params=chunk)


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def metric_name(name: str, *parts: str) -> str:
    """The name under which MLflow takes a metric or parameter; the same as before, unless MLflow would refuse it.

    MLflow refuses some characters, names that look like paths, and long ones. These characters are written as their
    number, such as `:2f:` for a slash, so that different names stay different. A name that is still too long keeps its
    beginning and gets a hash.

    Args:
        name: the name, in which `/` separates groups of metrics.
        parts: further groups, such as names of classes, in which `/` does not separate anything.
    """
    groups = [*name.split("/"), *(re.sub(r"[/:]", _number, part) for part in parts)]
    whole = "/".join(_group(group) for group in groups)
    if len(whole) <= LONGEST_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return f"{whole[: LONGEST_NAME - 15]}:{digest}:"


def renamed_metrics(catalogue: Catalogue) -> dict[str, str]:
    """Classes with names that MLflow would refuse in a metric, and the metrics of their IoU."""
    metrics = {name: metric_name("iou", name) for name in catalogue.classes}
    return {name: metric for name, metric in metrics.items() if metric != f"iou/{name}"}


def _group(text: str) -> str:
    """A part of a name between slashes."""
    text = re.sub(r"[^\w\-. :]", _number, text)
    if text.strip(".") and text == text.strip():
        return text
    return re.sub(r"^[. ]|[. ]$", _number, text) or ":empty:"


def _number(found: re.Match[str]) -> str:
    return f":{ord(found[0]):x}:"
