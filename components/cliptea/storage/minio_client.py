"""The connection to an S3 server: endpoint, credentials, waiting during outages, and errors in one line."""

from __future__ import annotations

import configparser
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import minio
import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ResponseError,
    SSLError,
    TimeoutError,
)

from cliptea import env, watchdog
from cliptea.errors import ServerAway, StorageError, one_line
from cliptea.messages import of_connection
from cliptea.outage import Outage, untrusted
from cliptea.storage.base import missing
from cliptea.storage.proxies import pool

__all__ = ["Limits", "absence", "connect", "endpoint", "explained", "why"]

AWS = "https://s3.amazonaws.com"
ROLES = urlsplit("https://sts.amazonaws.com")
BUSY = (408, 429, 500, 502, 503, 504)  # temporary errors, after which the same request may succeed
CONNECTIONS = 64  # connections in the pool; more threads open additional connections
# A single attempt that raises an error if the server is not available. minio handles other answers.
TRY = urllib3.Retry(
    None, connect=0, read=0, other=0, status=0, status_forcelist=BUSY, allowed_methods=None, redirect=4,
    raise_on_redirect=False,
)  # fmt: skip
METADATA_TIMEOUT = 2.0  # seconds; outside AWS, no server answers requests for the credentials of a machine
ROLE_TIMEOUT = 20.0  # seconds; a role by web identity has a server, which may be slow or busy for a moment
ROLE_TRIES = urllib3.Retry(
    3, backoff_factor=0.5, status_forcelist=BUSY, allowed_methods=None, raise_on_status=False
)  # fmt: skip
# What the providers of credentials raise if there are none, or if a server refuses them.
NO_CREDENTIALS = (ValueError, KeyError, OSError, HTTPError, ParseError, configparser.Error)


@dataclass(frozen=True)
class Limits:
    """Time limits of requests, and the size of parts of large objects."""

    timeout: float = 30.0  # seconds to connect, to send one part, and between two parts of an answer
    patience: float | None = None  # seconds to wait for the server, for each request; None: `outage.patience()`
    part: int = 8 << 20  # bytes per request for a large object (at least 5 MiB in S3)
    parallel: int = 4  # requests at a time, which need up to `parallel * part` bytes of memory


class NotRenewed(HTTPError):
    """Credentials that worked cannot be renewed. This counts as an outage of the S3 server."""


class Renewed(Provider):
    """Credentials of a provider, which are renewed when they expire."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def retrieve(self) -> Credentials:
        try:
            return self._provider.retrieve()
        except NO_CREDENTIALS as error:
            raise NotRenewed(f"the credentials cannot be renewed: {_no_credentials(error)}") from None


class Client(minio.Minio):
    """A client that retries while the server is not available. All requests, also POST, can safely be sent twice."""

    limits: Limits

    def _url_open(self, *request: Any, **options: Any) -> BaseHTTPResponse:
        # minio signs the request here, so every attempt has a new signature. S3 accepts one for 15 minutes only.
        outage = absence(self.limits)
        while True:
            try:
                answer = super()._url_open(*request, **options)
            except MinioException:  # the server answered, so it is available
                watchdog.alive()
                outage.over()
                raise
            except HTTPError as error:
                if _untrusted(error) or of_connection(_cause(error)) or not outage.wait(why(error)):
                    raise
            else:
                watchdog.alive()  # it does not see what sockets send and receive
                outage.over()
                return answer


def absence(limits: Limits) -> Outage:
    """The outage of the server during one request."""
    return Outage(f"S3 at {_server()}", limits.patience)


def endpoint() -> SplitResult:
    """The server in CLIPTEA_S3_ENDPOINT, or else in the variables of AWS's tools.

    Raises:
        StorageError: the value is invalid. The error does not show it, because it may contain a password.
    """
    try:
        url = urlsplit(next(filter(None, (variable.get() for variable in env.S3_ENDPOINTS)), AWS))
        port = url.port
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or "@" in url.netloc or url.path.strip("/"):
        raise StorageError(
            f"{_named()} is not the address of a server",
            "http://HOST:PORT or https://HOST and nothing else",
        )
    return url


def _named() -> str:
    """The name of the variable that sets the server, or of the one that may."""
    return next((variable for variable in env.S3_ENDPOINTS if variable.get()), env.S3_ENDPOINT).name


def connect(limits: Limits) -> minio.Minio:
    """A client for the endpoint, with the credentials from the environment. It does not connect yet.

    Raises:
        StorageError: the endpoint is invalid, or credentials are missing.
    """
    url, certificates = endpoint(), os.environ.get("SSL_CERT_FILE") or certifi.where()
    if url.scheme == "https" and not os.path.isfile(certificates):
        raise StorageError(f"SSL_CERT_FILE={certificates} is not a file", "a file of CA certificates", "correct it")
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # we log outages ourselves, once
    client = Client(
        url.netloc,
        secure=url.scheme == "https",
        region=_region(),
        credentials=_credentials(),
        http_client=pool(
            url,
            timeout=urllib3.Timeout(connect=limits.timeout, read=limits.timeout),
            retries=TRY,
            maxsize=CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=certificates,
        ),
    )
    client.limits = limits
    return client


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _credentials() -> Provider:
    web = bool(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"))
    timeout, tries = (ROLE_TIMEOUT, ROLE_TRIES) if web else (METADATA_TIMEOUT, urllib3.Retry(total=1))
    # Roles by web identity are AWS's. Others come from the machine itself, where no proxy leads.
    client = pool(ROLES, timeout=timeout, retries=tries) if web else urllib3.PoolManager(timeout=timeout, retries=tries)
    role = IamAwsProvider(http_client=client, region=_region())
    provider = ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), role])
    try:
        provider.retrieve()
    except NO_CREDENTIALS as error:
        if web:
            raise ServerAway(
                f"the credentials for S3 of the role in AWS_ROLE_ARN cannot be fetched ({_no_credentials(error)})",
                "a server of AWS that takes the token in AWS_WEB_IDENTITY_TOKEN_FILE",
                "check both variables, or try again later",
            ) from None
        raise StorageError(
            "the credentials for S3 are missing",
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in a file AWS_SHARED_CREDENTIALS_FILE, or a role",
        ) from None
    return Renewed(provider)


def _no_credentials(error: Exception) -> str:
    return why(error) if isinstance(error, HTTPError) else one_line(error)  # urllib3 shows the address, with a token


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Convert errors inside the block to a StorageError in one line about the object or folder `uri`."""
    try:
        yield
    except S3Error as error:
        raise _refused(error, uri) from None
    except HTTPError as error:
        raise _unreachable(error) from None
    except (MinioException, ParseError) as error:
        what = str(error).partition(", Content-Type")[0]
        if known := of_connection(error):
            raise StorageError(f"S3 cannot be used at {_server()}: {known[0]}", todo=known[1]) from None
        raise StorageError(
            f"{_server()} does not answer like an S3 server for {uri} ({what})",
            "an S3 server",
            f"check {_named()}",
        ) from None
    except ValueError as error:  # from minio: an invalid name, or invalid XML
        raise StorageError(
            f"{_server()} cannot serve {uri} ({error})",
            "an S3 server and a valid name",
            f"check {_named()} and the name",
        ) from None


def _server() -> str:
    url = endpoint()
    return f"{url.scheme}://{url.netloc}"


def _refused(error: S3Error, uri: str) -> StorageError:
    code = error.code or ""
    if code in ("NoSuchKey", "NoSuchObject"):
        return missing(uri)
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StorageError(f"the bucket {bucket} does not exist at {_server()}", todo="create it, or correct the name")
    if code == "InvalidBucketName":
        return StorageError(
            f"{_server()} does not allow the bucket name in {uri}", "lower case letters, digits, dots and hyphens"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"):
        return StorageError(
            f"{_server()} rejects the credentials ({code})",
            todo="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the file with them",
        )
    if code == "AccessDenied":
        return StorageError(
            f"{_server()} denies access to {uri}",
            "credentials with permission to read, write and list there",
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the bucket's policy",
        )
    return StorageError(f"{_server()} answers {code} for {uri}: {(error.message or '')[:200]}", todo="try again later")


def _unreachable(error: HTTPError) -> StorageError:
    if known := of_connection(_cause(error)):
        return StorageError(f"S3 cannot be reached at {_server()}: {known[0]}", todo=known[1])
    if _untrusted(error):
        return StorageError(
            f"no trusted connection to {_server()}: {_cause(error)}",
            "a certificate signed by a trusted CA",
            "set SSL_CERT_FILE to the server's CA",
        )
    return ServerAway(
        f"S3 cannot be reached at {_server()}: {why(error)}",
        "a running server",
        f"check {_named()}, or wait longer with CLIPTEA_PATIENCE",
    )


def why(error: HTTPError) -> str:
    """The reason of a failed attempt in a few words."""
    reason = _cause(error)
    if isinstance(reason, ProxyError):
        inner = reason.original_error
        return f"the proxy does not connect: {why(inner) if isinstance(inner, HTTPError) else one_line(inner)}"
    if isinstance(reason, NewConnectionError):
        return str(reason).rpartition(": ")[2].rpartition("] ")[2].rstrip(")")  # without "[Errno 111]"
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, ResponseError):
        return f"it answers {next(word for word in str(reason).split() if word.isdigit())}"
    return "the connection breaks" if isinstance(reason, ProtocolError | SSLError) else str(reason)


def _untrusted(error: HTTPError) -> bool:
    reason = _cause(error)
    return isinstance(reason, SSLError) and untrusted(reason.args[0])  # urllib3's error contains Python's


def _cause(error: HTTPError) -> Exception:
    return error.reason if isinstance(error, MaxRetryError) and error.reason else error
