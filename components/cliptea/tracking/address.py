"""The address of MLflow, and the error if it is not available. This module does not import MLflow, which is slow."""

from __future__ import annotations

import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from requests.utils import get_environ_proxies

from cliptea.errors import ConfigError, ServerAway, StorageError, TrackingError
from cliptea.messages import holds_secret, meaning
from cliptea.storage.local_files import local_path
from cliptea.tracking.database import LOCKED, database_file, database_path, unreadable

__all__ = [
    "CA_FILES",
    "EXPERIMENT",
    "MlflowAway",
    "Trouble",
    "database_trouble",
    "is_database",
    "require_server",
    "tracking_address",
]

EXPERIMENT = "cliptea"  # name of the experiment for all runs
# Variables with a file of CA certificates for MLflow, the most important one first.
CA_FILES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SECONDS = 8.0
PORT_SECONDS = 2.0  # for each address of a database's host, so that two tries end within the ten seconds of `persist`
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What MLflow takes for artifacts or models, but not for runs. For other kinds of addresses, it has plug-ins.
NO_RUNS = (
    "abfss", "b2", "databricks-uc", "dbfs", "ftp", "gs", "hdfs", "mlflow-artifacts", "models", "r2", "runs", "s3",
    "sftp", "uc", "viewfs", "wasbs",
)  # fmt: skip
# Another way to a database than a port of the host in its address.
OTHER_WAYS = ("host", "hostaddr", "unix_socket", "service", "dsn", "odbc_connect", "read_default_file")
PASSWORD = re.compile(
    r"://[^/\s@]*:(?!\d+(?:[/?]|$))[^\s@]+@|[?&;](?:password|passwd|pwd|sslpassword)=[^&;]", re.IGNORECASE
)
KINDS = "http://HOST:PORT, https://HOST, sqlite:////absolute/mlflow.db, or a postgresql, mysql or mssql database"
CHECK = "check MLFLOW_TRACKING_URI, credentials and certificates"
OTHER = "start it, or unset MLFLOW_TRACKING_URI to use the database in the work directory"


class MlflowAway(TrackingError, ServerAway):
    """MLflow does not answer, or cannot be used if the error is not temporary. `reason` says why in a few words."""

    def __init__(self, reason: str, temporary: bool = True, todo: str = "") -> None:
        uri = tracking_address()
        if temporary:
            what, expected = f"MLflow does not answer at {uri}", "a running server"
            if database_file(uri):
                what, expected = f"MLflow's database at {uri} cannot be used", "one that no other program locks"
            todo = todo or "check MLFLOW_TRACKING_URI, or wait longer with CLIPTEA_PATIENCE"
            super().__init__(f"{what} ({reason})", expected, todo)
        else:
            super().__init__(f"MLflow at {uri} cannot be used ({reason})", todo=todo or CHECK)
        self.reason, self.temporary = reason, temporary


class Trouble(NamedTuple):
    """Why a database cannot be used, what to do, and whether it may pass."""

    what: str
    todo: str
    temporary: bool = False


def is_database(uri: str) -> bool:
    """Whether an address is one of a database that MLflow opens itself, without a server."""
    return _kind(uri).partition("+")[0] in (*PORTS, "sqlite")


def _kind(uri: str) -> str:
    """Such as http, postgresql+psycopg2 or databricks; "" for a path."""
    found = re.match(r"([A-Za-z][\w+.-]*):", uri)
    if found:
        return found[1].lower()
    return uri if uri in ("databricks", "databricks-uc", "uc") else ""


def tracking_address() -> str:
    """The value of MLFLOW_TRACKING_URI, or "".

    Raises:
        ConfigError: the address contains a password, which MLflow's errors and the report would show; or it is one of
            a folder, of a store for artifacts or models only, or of a page of MLflow; or its kind is not in lower case.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    kind = _kind(uri)
    # A database may have a user without a password in its address, and names of files with keys.
    if PASSWORD.search(unquote(uri)) if is_database(uri) else holds_secret(uri):
        raise ConfigError(
            "MLFLOW_TRACKING_URI holds a password",
            "an address without one",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, "
            "PGPASSWORD for a PostgreSQL database",
        )
    if not uri.startswith(kind):  # the libraries of databases, and the checks of addresses here, expect lower case
        raise ConfigError(f"MLFLOW_TRACKING_URI={uri} begins with capitals", f"an address that begins with {kind}:")
    if uri and kind in ("", "file", *NO_RUNS):
        folder = kind in ("", "file")
        what = (
            "a folder, which MLflow no longer supports" if folder else f"an address of {kind}, which cannot hold runs"
        )
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={uri} is {what}",
            KINDS,
            "correct it, or unset it to use the database in the work directory",
        )
    if kind in ("http", "https") and "#" in uri:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={uri} is the address of a page of MLflow", uri.partition("#")[0], "correct it"
        )
    return uri


def require_server() -> None:
    """Check that the server or the database in MLFLOW_TRACKING_URI can be used, if the variable is set.

    Raises:
        ConfigError: the address contains a password, or MLflow cannot keep runs there.
        StorageError: the server does not answer, or the database cannot be used.
    """
    uri = tracking_address()
    if uri.startswith("http"):
        _require_http(uri)
    elif trouble := database_trouble(uri):
        raise StorageError(f"MLflow's database at {uri} cannot be used: {trouble.what}", KINDS, trouble.todo)


def database_trouble(uri: str) -> Trouble | None:
    """Why a database cannot be used; None if nothing is known against it, or if it is no database.

    MLflow and the libraries of databases try for minutes before they say so.
    """
    if not is_database(uri):
        return None
    return _of_file(uri) if uri.startswith("sqlite") else _of_port(uri)


def _require_http(uri: str) -> None:
    try:
        proxies = urllib.request.ProxyHandler(get_environ_proxies(uri))  # as MLflow chooses them
        urllib.request.build_opener(proxies).open(f"{uri.rstrip('/')}/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:  # the server is running; permissions are checked later
        answer.close()
    except (ValueError, InvalidURL):  # whose text may hold a password
        raise StorageError(f"MLFLOW_TRACKING_URI={uri} is not an address", KINDS, "correct it") from None
    except OSError as error:  # also of a server that hangs up, which is an HTTPException too
        reason = getattr(error, "reason", error)
        known = meaning(reason) if isinstance(reason, BaseException) else None
        if isinstance(reason, ssl.SSLError) and known is None:  # MLflow has its own settings for certificates
            return
        what, todo = known or (reason, OTHER)
        raise StorageError(f"MLflow does not answer at {uri} ({what})", "a running server", todo) from None
    except HTTPException as error:
        raise StorageError(
            f"what answers at {uri} does not speak HTTP ({type(error).__name__})",
            "an MLflow server",
            "correct the host and the port in MLFLOW_TRACKING_URI",
        ) from None


def _of_port(uri: str) -> Trouble | None:
    try:
        url = urlsplit(uri)
        host, port = url.hostname, url.port or PORTS[url.scheme.partition("+")[0]]
    except ValueError as error:
        return Trouble(f"its address is invalid: {error}", "correct MLFLOW_TRACKING_URI")
    if host is None or _has_other_way(url):
        return None
    try:
        with closing(socket.create_connection((host, port), timeout=PORT_SECONDS)):
            return None
    except (OSError, ValueError) as error:  # it may restart
        return Trouble(f"it does not answer ({getattr(error, 'strerror', None) or error})", OTHER, temporary=True)


def _has_other_way(url: SplitResult) -> bool:
    """Whether a database is not, or perhaps not, reached at the host and port of its address."""
    if any(name.lower() in OTHER_WAYS for name in parse_qs(url.query)):
        return True
    if url.port is not None:
        return False
    if url.scheme in ("mssql", "mssql+pyodbc"):  # "host" may be a name in the settings of ODBC
        return "." not in (url.hostname or "")
    return url.scheme in ("mysql", "mysql+mysqldb") and url.hostname == "localhost"  # a socket for this library


def _of_file(uri: str) -> Trouble | None:
    """The trouble with an SQLite file. MLflow creates one that does not exist."""
    file, todo = database_file(uri), "correct MLFLOW_TRACKING_URI or the permissions, or use another work directory"
    if file is None:
        return Trouble("the address does not name a file", todo)
    path, what = database_path(uri), ""
    try:
        if local_path("the file", path) != Path(path):  # MLflow does not know "~"
            what = "its path begins with ~ instead of the home folder"
        elif file.is_dir():
            what = "it is a folder"
        elif not file.exists():
            there = file.parent.exists() and not os.access(file.parent, os.W_OK)
            what = "this user may not create it there" if there else ""
        elif not file.is_file():
            what = "it is not a file"
        elif not os.access(file, os.R_OK | os.W_OK):
            what = "this user may not read and write it"
    except ConfigError as error:
        return Trouble(error.what, todo)
    except OSError as error:
        return Trouble(*(meaning(error) or (error.strerror or str(error), todo)))
    if what:
        return Trouble(what, todo)
    wrong = unreadable(file)
    return Trouble(*wrong, temporary=wrong == LOCKED) if wrong else None
