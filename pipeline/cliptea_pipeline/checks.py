"""What `cliptea doctor` looks at outside Kubernetes: object store, MLflow, Kubeflow Pipelines. Each within seconds."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3

from cliptea.errors import ClipteaError
from cliptea.storage import Store, is_remote, open_store

__all__ = ["BROKEN", "OK", "UNKNOWN", "Finding", "kfp", "mlflow", "store"]

OK, BROKEN, UNKNOWN = "ok", "missing", "cannot tell"
SECONDS = 4.0  # for one request; it is not tried again
PROBE = "doctor"  # folder of the objects that are written and deleted


class Finding(NamedTuple):
    """One line: what was looked at, whether it is there, and what to do if not."""

    what: str
    state: str
    text: str


def store(uri: str | None = None) -> Iterator[Finding]:
    """The object store, by default that of CLIPTEA_STORE: credentials, endpoint, a real write, read and delete."""
    uri = uri or os.environ.get("CLIPTEA_STORE", "")
    if not uri:
        yield Finding(
            "store", UNKNOWN, "not configured: set CLIPTEA_STORE, as in s3://bucket/folder, and its credentials"
        )
        return
    try:
        opened = _quick(uri) if is_remote(uri) else open_store(uri)
        _probe(opened)
    except ClipteaError as error:
        yield Finding("store", BROKEN, str(error))
    else:
        yield Finding("store", OK, f"{opened.uri('').rstrip('/')}: wrote, read and deleted an object")


def _quick(uri: str) -> Store:
    from cliptea.storage.client import Limits
    from cliptea.storage.s3 import S3Store, parse

    return S3Store(*parse(uri), limits=Limits(timeout=SECONDS, patience=0))


def _probe(opened: Store) -> None:
    key, data = f"{PROBE}/{uuid.uuid4().hex}", b"cliptea doctor"
    opened.put(key, data)
    try:
        if opened.get(key) != data:
            raise ClipteaError("the store gives back other bytes than were written", todo="check the server's disks")
    finally:
        opened.delete(key)


def mlflow() -> Iterator[Finding]:
    """The tracking server that MLFLOW_TRACKING_URI names, with the credentials of the environment."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    url = urlsplit(uri)
    if not uri:
        yield Finding("MLflow", UNKNOWN, "not configured: set MLFLOW_TRACKING_URI (a local run keeps its own database)")
    elif url.scheme not in ("http", "https"):
        yield Finding("MLflow", OK, f"a {url.scheme or 'file'} database of one machine; a cluster needs a server")
    else:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if user and not token:
            headers = urllib3.make_headers(basic_auth=f"{user}:{password}")
        where = f"{url.scheme}://{url.hostname}" + (f":{url.port}" if url.port else "")  # without a password
        names = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        found, _ = _answer("MLflow", where, uri.rstrip("/") + path, headers, *names)
        yield found


def kfp(endpoint: str | None, namespace: str | None) -> Iterator[Finding]:
    """Kubeflow Pipelines' API, and whether it lets one list experiments, which a run needs."""
    from cliptea_pipeline.endpoint import NAMESPACE, TOKEN, address

    try:
        url = address(endpoint)
    except ClipteaError as error:
        yield Finding("Pipelines", UNKNOWN, f"not configured: {error.todo}")
        return
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    found, health = _answer("Pipelines", url, f"{url}/apis/v2beta1/healthz", headers, "KFP_ENDPOINT", TOKEN)
    if found.state == OK:
        several = health.get("multi_user")
        if several and not namespace:
            text = f"{url} serves several users: add --namespace, or set {NAMESPACE}"
            found = Finding("Pipelines", BROKEN, text)
        else:
            listed = f"{url}/apis/v2beta1/experiments?page_size=1" + (f"&namespace={namespace}" if several else "")
            found, _ = _answer("Pipelines", url, listed, headers, "KFP_ENDPOINT", TOKEN)
    yield found


def _answer(
    what: str, where: str, url: str, headers: dict[str, str], address: str, credentials: str
) -> tuple[Finding, Any]:
    """What is said of a server that is asked for a JSON object, and the object."""
    try:
        with urllib3.PoolManager(ca_certs=os.environ.get("SSL_CERT_FILE")) as pool:
            response = pool.request(
                "GET",
                url,
                headers=headers,
                timeout=SECONDS,
                retries=urllib3.Retry(0, redirect=3, raise_on_status=False),
            )
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        cause = type(getattr(error, "reason", None) or error).__name__
        return Finding(what, BROKEN, f"{where} cannot be reached ({cause}): check {address}"), {}
    if response.status in (401, 403):
        return Finding(what, BROKEN, f"{where} refuses ({response.status}): set {credentials}"), {}
    if response.status != 200 or "json" not in response.headers.get("Content-Type", ""):
        return Finding(what, BROKEN, f"{where} answers {response.status} and is no such server: check {address}"), {}
    return Finding(what, OK, f"{where} answers"), response.json()
