"""The checks of `cliptea doctor` outside Kubernetes: object store and MLflow. Each takes at most seconds."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import urllib3

from cliptea import env
from cliptea.errors import ClipteaError
from cliptea.outage import unreached
from cliptea.steps.store_folder import PROBE, require_free_store
from cliptea.storage import Store, is_remote, open_store

__all__ = ["BROKEN", "NOT_READY", "OK", "UNKNOWN", "UTF8", "Finding", "answer", "mlflow", "store"]

OK, BROKEN, NOT_READY, UNKNOWN = "ok", "missing", "not ready", "cannot tell"
# A database in another encoding cannot look up this name, and the server returns Python's error message.
NOT_ASCII, NO_CODE = "name = '\U0001f600'", "codec can't encode character"
UTF8 = "MLflow needs one in UTF8, and docs/cluster.md explains how to check it and how to create one"
SECONDS = 4.0  # for one request; it is not tried again


class Finding(NamedTuple):
    """One line with the name of the check, its result, and what to do about it."""

    what: str
    state: str
    text: str
    status: int = 0  # of HTTP, if a server has answered


class Answer(NamedTuple):
    """What a server has answered to a request."""

    status: int
    kind: str  # its content type
    data: bytes


def store(uri: str | None = None) -> Iterator[Finding]:
    """Check the object store, by default CLIPTEA_STORE: credentials, endpoint, and writing, reading and deleting."""
    uri = uri or env.STORE.get()
    if not uri:
        text = "not configured: set CLIPTEA_STORE, for example to s3://bucket/folder, and its credentials"
        yield Finding("store", UNKNOWN, text)
        return
    try:
        opened = _quick(uri) if is_remote(uri) else open_store(uri)
        require_free_store(opened)
        _probe(opened)
    except ClipteaError as error:
        yield Finding("store", BROKEN, str(error))
    else:
        yield Finding("store", OK, f"{opened.uri('').rstrip('/')}: wrote, read and deleted an object")


def _quick(uri: str) -> Store:
    from cliptea.storage.minio_client import Limits
    from cliptea.storage.s3_store import S3Store, parse

    return S3Store(*parse(uri), limits=Limits(timeout=SECONDS, patience=0))


def _probe(opened: Store) -> None:
    key, data = f"{PROBE}/{uuid.uuid4().hex}", b"cliptea doctor"
    opened.put(key, data)
    try:
        if opened.get(key) != data:
            raise ClipteaError("the store returns other bytes than were written", todo="check the server's disks")
    finally:
        opened.delete(key)


def mlflow() -> Iterator[Finding]:
    """Check the tracking server in MLFLOW_TRACKING_URI, with the credentials in the environment."""
    from cliptea.tracking.address import CA_FILES, tracking_address

    try:
        uri = tracking_address()
    except ClipteaError as error:
        yield Finding("MLflow", BROKEN, str(error))
        return
    url = urlsplit(uri)
    if not uri:
        yield Finding("MLflow", UNKNOWN, "not configured: set MLFLOW_TRACKING_URI (local runs use their own database)")
    elif url.scheme.startswith("postgresql"):
        yield _postgresql(uri)
    elif url.scheme not in ("http", "https"):
        yield Finding("MLflow", OK, f"a {url.scheme or 'file'} database on one machine; a cluster needs a server")
    else:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if user and not token:
            headers = urllib3.make_headers(basic_auth=f"{user}:{password}")
        certificates = next(filter(os.environ.get, CA_FILES), "REQUESTS_CA_BUNDLE")
        names = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", certificates
        where = uri.rstrip("/")
        path = f"/api/2.0/mlflow/experiments/search?max_results=1&filter={quote(NOT_ASCII)}"
        found, said = answer("MLflow", where, where + path, headers, *names, ask=_ask_like_mlflow)
        if NO_CODE in str(said):
            found = Finding("MLflow", BROKEN, f"{where} has a PostgreSQL database that is not in UTF8; {UTF8}")
        yield found


def _postgresql(uri: str) -> Finding:
    """Check a database that MLflow uses without a server. MLflow only works with UTF8."""
    from sqlalchemy import NullPool, create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            encoding = connection.scalar(text("SHOW server_encoding"))
    except ModuleNotFoundError as error:
        text = f"a PostgreSQL database, which cannot be checked without the package {error.name}"
        return Finding("MLflow", UNKNOWN, text)
    except TypeError:  # psycopg gives bytes for the text of a database that has no encoding
        encoding = "SQL_ASCII"
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0][:200]
        return Finding("MLflow", BROKEN, f"the PostgreSQL database cannot be used ({cause}): check MLFLOW_TRACKING_URI")
    if encoding != "UTF8":
        return Finding("MLflow", BROKEN, f"the PostgreSQL database has the encoding {encoding}; {UTF8}")
    return Finding("MLflow", OK, "a PostgreSQL database in UTF8; a cluster needs a server")


def _ask(url: str, headers: dict[str, str]) -> Answer:
    with urllib3.PoolManager(ca_certs=os.environ.get("SSL_CERT_FILE")) as pool:
        limits = {"connect": 0, "read": 0, "other": 0, "respect_retry_after_header": False}
        retries = urllib3.Retry(3, raise_on_status=False, **limits)  # three redirects
        response = pool.request("GET", url, headers=headers, timeout=SECONDS, retries=retries)
    return Answer(response.status, response.headers.get("Content-Type", ""), response.data)


def _ask_like_mlflow(url: str, headers: dict[str, str]) -> Answer:
    """The same with the library, the CA certificates and the proxies of MLflow's own requests."""
    import requests

    from cliptea.tracking.address import CA_FILES

    verify: str | bool = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        if verify is not True:
            raise ValueError("set only one of MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH")
        verify = False
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user has chosen this
    elif not any(map(os.environ.get, CA_FILES)):
        verify = os.environ.get("SSL_CERT_FILE") or True
    response = requests.get(url, headers=headers, timeout=SECONDS, verify=verify)
    return Answer(response.status_code, response.headers.get("Content-Type", ""), response.content)


def answer(
    what: str,
    where: str,
    url: str,
    headers: dict[str, str],
    address: str,
    credentials: str,
    certificates: str = "SSL_CERT_FILE",
    away: str = BROKEN,
    ask: Callable[[str, dict[str, str]], Answer] = _ask,
) -> tuple[Finding, Any]:
    """Request a JSON object from a server, and return a finding about the server and the object, if any.

    A server that is starting or failing is "not ready"; a server that cannot be reached is "missing".

    Args:
        what: the displayed name of the server.
        where: its address, without a password.
        url, headers: the request.
        address, credentials, certificates: the variables that set them, and a file of CA certificates.
        away: the state of a server that cannot be reached.
        ask: makes the request.
    """
    try:
        status, kind, data = ask(url, headers)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        return _unanswered(what, where, error, address, certificates, away), {}
    said = _json(data) if "json" in kind else None
    if status in (401, 403):
        found = Finding(what, BROKEN, f"{where} denies access ({status}): set {credentials}")
    elif status == 429 or status >= 500:
        text = f"{where} answers {status}: it is starting or failing; wait a minute, then read its log"
        found = Finding(what, NOT_READY, text)
    elif status != 200 or said is None:
        found = Finding(what, BROKEN, f"{where} is not such a server (it answers {status}): check {address}")
    else:
        found = Finding(what, OK, f"{where} answers")
    return found._replace(status=status), said or {}


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _unanswered(what: str, where: str, error: Exception, address: str, certificates: str, away: str) -> Finding:
    from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

    error = next((inner for inner in error.args if isinstance(inner, HTTPError)), error)  # `requests` wraps them
    why, todo = unreached(error, f"set {certificates} to a file with the CA of its certificate")
    if not todo and isinstance(getattr(error, "reason", None) or error, (ProtocolError, ReadTimeoutError)):
        text = f"{where} accepts the request but does not answer it: it is starting or failing"
        return Finding(what, NOT_READY, f"{text}; wait a minute, then read its log")
    return Finding(what, away, f"{where} cannot be reached ({why}): {todo or f'start it, or check {address}'}")
