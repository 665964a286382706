"""The address of MLflow, and the error if it is not available. This module does not import MLflow, which is slow."""

from __future__ import annotations

import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from cliptea.errors import ConfigError, ServerAway, StorageError, TrackingError
from cliptea.messages import holds_secret, meaning
from cliptea.tracking.database import database_file

__all__ = ["EXPERIMENT", "MlflowAway", "database_trouble", "require_server", "tracking_address"]

EXPERIMENT = "cliptea"  # name of the experiment for all runs
SECONDS = 8.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KINDS = "http://HOST:PORT, https://HOST, sqlite:////absolute/mlflow.db, or a postgresql, mysql or mssql database"
CHECK = "check MLFLOW_TRACKING_URI, credentials and certificates"
OTHER = "start it, or unset MLFLOW_TRACKING_URI to use the database in the work directory"
SQLITE = b"SQLite format 3\0"  # how a database begins


class MlflowAway(TrackingError, ServerAway):
    """MLflow does not answer, or cannot be used if the error is not temporary. `reason` says why in a few words."""

    def __init__(self, reason: str, temporary: bool = True, todo: str = CHECK) -> None:
        uri = tracking_address()
        if temporary:
            what, expected = f"MLflow does not answer at {uri} ({reason})", "a running server"
            super().__init__(what, expected, "check MLFLOW_TRACKING_URI, or wait longer with CLIPTEA_PATIENCE")
        else:
            super().__init__(f"MLflow at {uri} cannot be used ({reason})", todo=todo)
        self.reason, self.temporary = reason, temporary


def tracking_address() -> str:
    """The value of MLFLOW_TRACKING_URI, or "".

    Raises:
        ConfigError: the address contains a password, which MLflow's errors and the report would show; or it is not one
            of a server or a database.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    kind, colon, _ = uri.partition("://")
    # A database may have a user without a password in its address.
    without_user = uri if kind.startswith("http") else re.sub(r"(?<=://)[^:/@\s]+@", "", uri)
    if holds_secret(without_user):
        raise ConfigError(
            "MLFLOW_TRACKING_URI holds a password",
            "an address without one",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    if uri and not (colon and kind.partition("+")[0] in (*PORTS, "http", "https", "sqlite")):
        what = f"an address of {kind}" if colon and kind != "file" else "a folder, which MLflow no longer supports"
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={uri} is {what}",
            KINDS,
            "correct it, or unset it to use the database in the work directory",
        )
    return uri


def require_server() -> None:
    """Check that the server or the database in MLFLOW_TRACKING_URI can be used, if the variable is set.

    Raises:
        ConfigError: the address contains a password, or is not one of a server or a database.
        StorageError: the server does not answer, or the database cannot be used.
    """
    uri = tracking_address()
    if uri.startswith("http"):
        _require_http(uri)
    elif uri and (trouble := database_trouble(uri)):
        raise StorageError(f"MLflow's database at {uri} cannot be used: {trouble[0]}", KINDS, trouble[1])


def database_trouble(uri: str) -> tuple[str, str] | None:
    """Why a database cannot be used, and what to do; None if nothing is known against it.

    MLflow and the libraries of databases try for minutes before they say so.
    """
    return _of_file(uri) if uri.startswith("sqlite") else _of_port(uri)


def _require_http(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:  # the server is running; permissions are checked later
        answer.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        known = meaning(reason) if isinstance(reason, BaseException) else None
        if isinstance(reason, ssl.SSLError) and known is None:  # MLflow has its own settings for certificates
            return
        what, todo = known or (reason, OTHER)
        raise StorageError(f"MLflow does not answer at {uri} ({what})", "a running server", todo) from None


def _of_port(uri: str) -> tuple[str, str] | None:
    try:
        url = urlsplit(uri)
        host, port = url.hostname, url.port or PORTS[url.scheme.partition("+")[0]]
        if host is None or "host=" in url.query:  # a socket on this machine, or several hosts
            return None
        with closing(socket.create_connection((host, port), timeout=SECONDS)):
            return None
    except (OSError, ValueError) as error:
        return f"it does not answer ({getattr(error, 'strerror', None) or error})", OTHER


def _of_file(uri: str) -> tuple[str, str] | None:
    """The trouble with an SQLite file. MLflow creates one that does not exist."""
    file, todo = database_file(uri), "correct MLFLOW_TRACKING_URI or the permissions, or use another work directory"
    if file is None:
        return "the address does not name a file", todo
    what = ""
    try:
        if file.is_dir():
            what = "it is a folder"
        elif not file.exists():
            there = file.parent.exists() and not os.access(file.parent, os.W_OK)
            what = "this user may not create it there" if there else ""
        elif not file.is_file():
            what = "it is not a file"
        elif not os.access(file, os.R_OK | os.W_OK):
            what = "this user may not read and write it"
        elif (start := _beginning(file)) and start != SQLITE:
            what = "it is not an SQLite database"
    except OSError as error:
        return meaning(error) or (error.strerror or str(error), todo)
    return (what, todo) if what else None


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(len(SQLITE))
