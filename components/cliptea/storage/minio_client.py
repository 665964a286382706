"""The connection to an S3 server: credentials, and waiting during outages."""

from __future__ import annotations

import configparser
import logging
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import minio
import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from minio.error import MinioException
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from cliptea import watchdog
from cliptea.errors import ServerAway, StorageError, one_line
from cliptea.messages import of_connection
from cliptea.outage import Outage
from cliptea.storage.proxies import pool
from cliptea.storage.s3_errors import PASSING, cause, endpoint, is_untrusted, server, why

__all__ = ["Limits", "absence", "connect"]

BUSY = (408, 429, 500, 502, 503, 504)  # temporary errors, after which the same request may succeed
CONNECTIONS = 64  # connections in the pool; more threads open additional connections
# A single attempt that raises an error if the server is not available. minio handles other answers.
TRY = urllib3.Retry(
    None, connect=0, read=0, other=0, status=0, status_forcelist=BUSY, allowed_methods=None, redirect=4,
    raise_on_redirect=False,
)  # fmt: skip
METADATA_TIMEOUT = 2.0  # seconds; outside AWS, no server answers requests for the credentials of a machine
ROLE_TIMEOUT = 20.0  # seconds; a web identity role has a server, which may be slow or busy for a moment
ROLE_TRIES = urllib3.Retry(3, backoff_factor=0.5, status_forcelist=BUSY, allowed_methods=None)
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
            except MinioException as error:
                watchdog.alive()
                code = getattr(error, "code", None)  # only an S3Error has one
                if code in PASSING and outage.wait(f"it answers {code}"):
                    continue
                outage.over()
                raise
            except HTTPError as error:
                if _lasts(error) or not outage.wait(why(error)):
                    raise
            else:
                watchdog.alive()  # it does not see what sockets send and receive
                outage.over()
                return answer


def absence(limits: Limits) -> Outage:
    """The outage of the server during one request."""
    return Outage(f"S3 at {server()}", limits.patience)


def _lasts(error: HTTPError) -> bool:
    """Whether it does not help to wait, as with a certificate that is not trusted."""
    return is_untrusted(error) or of_connection(cause(error)) is not None


def connect(limits: Limits) -> minio.Minio:
    """A client for the endpoint, with the credentials from the environment.

    The only server that it contacts is the one that gives out credentials: AWS STS or the machine's metadata service.

    Raises:
        ServerAway: the server that gives credentials to web identity roles refuses, or is away for too long.
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
        credentials=_credentials(limits.patience),
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


def _roles() -> str:
    """The server of AWS that gives credentials to web identity roles: that of the region, if it is set."""
    region = _region() or ""
    place = f"sts.{region}" if region else "sts"
    return f"https://{place}.amazonaws.com" + ".cn" * region.startswith("cn-")


def _credentials(patience: float | None) -> Provider:
    web = bool(os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"))
    timeout, tries = (ROLE_TIMEOUT, ROLE_TRIES) if web else (METADATA_TIMEOUT, urllib3.Retry(total=1))
    # Web identity roles are served by AWS. Others come from the machine's metadata service, which no proxy reaches.
    roles, options = _roles() if web else None, {"timeout": timeout, "retries": tries}
    client = pool(urlsplit(roles), **options) if roles else urllib3.PoolManager(**options)
    role = IamAwsProvider(custom_endpoint=roles, http_client=client)
    provider = ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), role])
    try:
        _fetch(provider, patience if web else 0.0)
    except NO_CREDENTIALS as error:
        if web:
            raise ServerAway(
                f"the credentials for S3 of the role in AWS_ROLE_ARN cannot be fetched ({_no_credentials(error)})",
                "a server of AWS that takes the token in AWS_WEB_IDENTITY_TOKEN_FILE",
                "check both variables, or try again later",
            ) from None
        if isinstance(error, configparser.Error):
            raise StorageError(
                f"the file with the credentials for S3, {_credentials_file()}, cannot be read ({_place(error)})",
                "lines such as [default] and aws_access_key_id = KEY",
                "correct it",
            ) from None
        raise StorageError(
            "the credentials for S3 are missing",
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile in a file AWS_SHARED_CREDENTIALS_FILE, or a role",
        ) from None
    return Renewed(provider)


def _fetch(provider: Provider, patience: float | None) -> None:
    """Fetch the first credentials, and wait for a server of roles that is away. Renewals wait in `Client`."""
    outage = Outage("the server of AWS's roles", patience)
    while True:
        try:
            provider.retrieve()
        except HTTPError as error:
            if _lasts(error) or not outage.wait(why(error)):
                raise
        else:
            outage.over()
            return


def _credentials_file() -> str:
    return os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"


def _place(error: configparser.Error) -> str:
    """The kind of a syntax error and its line, without the text of that line, which may be a secret."""
    lines = [getattr(error, "lineno", None), *(number for number, _ in getattr(error, "errors", None) or [])]
    line = next(filter(None, lines), None)
    return type(error).__name__ + (f" in line {line}" if line else "")


def _no_credentials(error: Exception) -> str:
    return why(error) if isinstance(error, HTTPError) else one_line(error)  # urllib3 shows the address, with a token
