"""The connection to MLflow, and what its errors mean."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.entities import PagedList
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from requests import RequestException
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from cliptea import watchdog
from cliptea.errors import ConfigError, TrackingError, one_line
from cliptea.messages import ERRNOS, causes, meaning
from cliptea.outage import COMMAND_SECONDS, Outage, patience, untrusted
from cliptea.tracking.address import (
    CA_FILES,
    CHECK,
    OTHER,
    MlflowAway,
    database_trouble,
    is_database,
    tracking_address,
)
from cliptea.tracking.database import LOCKED, database_file, leave_folders, require_database

__all__ = ["all_pages", "away", "connect", "persist"]

Result = TypeVar("Result")
PROBE = "/api/2.0/mlflow/experiments/search"  # asks the server for its database
PROBE_SECONDS = 8.0
OTHER_CA = (
    "SSL_CERT_FILE is used for MLflow too: if MLflow's certificate has another CA, set REQUESTS_CA_BUNDLE to a file "
    "with that CA or, for a public CA, to the path that `python -m certifi` prints"
)
DATABASE_SECONDS = "3"  # for the answer of a PostgreSQL server to a connection
# Errors that waiting does not fix: a pattern of MLflow's text, what it means, and what to do.
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
        "neither MLflow nor an installed plug-in knows addresses of the kind {}",
        "correct MLFLOW_TRACKING_URI, or install the plug-in for it",
    ),
    (
        r"response body was not in a valid JSON format|error code 405 ",
        "a web page or a login answers there, and not MLflow's API",
        "correct MLFLOW_TRACKING_URI; for a login, set MLFLOW_TRACKING_TOKEN, or a user and a password",
    ),
    (
        r"error code 413 |413 Client Error",
        "a proxy in front of it refuses requests of this size",
        "raise the limit of that proxy, such as client_max_body_size of nginx",
    ),
    (r"HTTP(?:Status)? ?(?:code )?401|Unauthorized|UNAUTHENTICATED", "it denies access", CHECK),
)


def all_pages(search: Callable[..., PagedList[Result]]) -> Iterator[Result]:
    """All that a search of MLflow finds, which comes in pages.

    Args:
        search: a method of MLflow's client with all arguments but `page_token`.
    """
    page = search()
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


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
    _trust()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the default waits for minutes; `persist` waits
    if trouble := database_trouble(uri):
        raise MlflowAway(trouble.what, trouble.temporary, trouble.todo)
    try:
        if is_database(uri):
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 1  # MLflow tries for minutes by default; `persist` tries again
            os.environ.setdefault("PGCONNECT_TIMEOUT", DATABASE_SECONDS)  # psycopg waits for minutes or forever
            leave_folders()
            if file := database_file(uri):
                require_database(file)
        client = MlflowClient(uri)
        _require_answer(client)
    except Exception as error:  # MLflow does not wrap errors of the database libraries
        raise away(error) from None
    return client


def _require_answer(client: MlflowClient) -> None:
    """Ask for an experiment, so that a server that does not answer costs seconds.

    Later requests have MLflow's own limit of two minutes, which the upload of a large model may need.
    """
    uri = client.tracking_uri
    if not uri.startswith("http"):
        client.search_experiments(max_results=1)
        return
    answer = http_request(
        get_default_host_creds(uri), PROBE, "POST", json={"max_results": 1}, timeout=PROBE_SECONDS, max_retries=0
    )
    verify_rest_response(answer, PROBE)


def _trust() -> None:
    """Let MLflow trust the CA in SSL_CERT_FILE, which its library `requests` does not read."""
    if (file := os.environ.get("SSL_CERT_FILE")) and not any(map(os.environ.get, CA_FILES)):
        os.environ["REQUESTS_CA_BUNDLE"] = file


def away(error: BaseException) -> MlflowAway:
    """What an error of MLflow means for its user."""
    texts = " ".join(str(cause) for cause in causes(error))
    if "database is locked" in texts and database_file(tracking_address()):  # not that of a server
        return MlflowAway(LOCKED[0], todo=LOCKED[1])
    for pattern, reason, todo in KNOWN:
        if found := re.search(pattern, texts):
            return MlflowAway(reason.format(*found.groups()), False, todo.format(uri=tracking_address()))
    if any(map(_is_made_already, causes(error))):
        todo = "run again; if that does not help, use another database"
        return MlflowAway("another process has just made the same tables or rows", todo=todo)
    known = meaning(error)
    if known is not None and (not _may_pass(error) or (known in ERRNOS.values() and not _of_server(error))):
        return MlflowAway(known[0], False, known[1])
    temporary, uri = _may_pass(error), tracking_address()
    shared = os.environ.get("SSL_CERT_FILE", "")
    if any(map(untrusted, causes(error))) and os.environ.get("REQUESTS_CA_BUNDLE") == shared != "":
        return MlflowAway(_cause(error), False, OTHER_CA)
    behind_port = is_database(uri) and not database_file(uri)
    return MlflowAway(_cause(error), temporary, OTHER if temporary and behind_port else "")


def persist(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Return the result of `work`, which uses MLflow, and retry it while MLflow is not available.

    For a database instead of a server, the limit is ten seconds: a file does not restart, and others do so quickly.

    Args:
        work: the function to call. It must be safe to call it again.
        seconds: how long to wait for MLflow. The default and the maximum are `cliptea.outage.patience()`. The first try
            counts, but at most as half of it: there is a second try even after long work.

    Raises:
        TrackingError: MLflow is not available for longer than that, or (not temporary) it rejects a request.
    """
    uri = tracking_address()
    limits = [patience(), *([] if seconds is None else [seconds]), *([COMMAND_SECONDS] if is_database(uri) else [])]
    server, limit, began = f"MLflow at {uri}", min(limits), time.monotonic()
    absence: Outage | None = None
    while True:
        try:
            done = work()
        except MlflowAway as error:
            failure = error
        except (MlflowException, OSError) as error:
            failure = away(error)
        else:
            watchdog.alive()  # the watchdog does not see what sockets send and receive
            (absence or Outage(server)).over()
            return done
        if absence is None:
            absence = Outage(server, limit, since=max(began, time.monotonic() - limit / 2))
        if not failure.temporary or not absence.wait(failure.reason):
            raise failure from None


def _may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed. Rejected requests and errors of this machine, such as of files, are permanent."""
    if any(untrusted(cause) for cause in causes(error)):
        return False
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # 500 if there was no answer, and for files that were not downloaded
        if (told := re.search(r"\b(4\d\d) Client Error|error code (4\d\d) != ", str(error))) and status == 500:
            status = int(told[1] or told[2])
    elif isinstance(error, RequestException):  # from artifact requests
        status = 500 if error.response is None else error.response.status_code
    elif isinstance(error, OperationalError):  # from a database that is just starting or ending
        status = 400 if database_file(tracking_address()) else 500
    else:
        return False
    return status >= 500 or status in (408, 429)


def _is_made_already(error: BaseException) -> bool:
    """Whether a database server has a table or row already that MLflow has just looked for and not found.

    Two first runs may make the tables of a new database at the same time. Those of a file are made under a lock.
    """
    if not isinstance(error, (ProgrammingError, IntegrityError)) or database_file(tracking_address()):
        return False
    return re.search("already exists|duplicate", str(error), re.IGNORECASE) is not None


def _of_server(error: BaseException) -> bool:
    """Whether an error, such as a full disk, may be on the server's machine, where it may be fixed in the meantime."""
    uri = tracking_address()
    if is_database(uri):
        return database_file(uri) is None
    return any(isinstance(cause, RestException) for cause in causes(error))


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, in one line."""
    *_, last = causes(error)
    text = re.split(r"\. Response body: '\s*<", one_line(last))[0]  # without a web page
    return text[:200] or type(last).__name__
