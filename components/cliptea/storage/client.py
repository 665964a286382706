"""The connection to an S3 server: endpoint, credentials, time-outs and retries, and its errors in one line."""

from __future__ import annotations

import configparser
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import minio
import urllib3
from minio.credentials.providers import AWSConfigProvider, ChainedProvider, EnvAWSProvider, IamAwsProvider
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, SSLError, TimeoutError

from cliptea.errors import StorageError
from cliptea.storage.files import missing

__all__ = ["Limits", "connect", "endpoint", "explained", "retry"]

AWS = "https://s3.amazonaws.com"
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which the same request may succeed
CONNECTIONS = 64  # kept open; threads beyond open their own
METADATA_TIMEOUT = 2.0  # seconds; outside AWS nobody answers for the credentials of a machine


@dataclass(frozen=True)
class Limits:
    """How long and how often a request is tried: five times, in at most about three minutes.

    Attributes:
        timeout: seconds to connect, to send one part, and between two pieces of an answer.
        retries: after the first try.
        backoff: seconds before the second retry; it doubles with each, with as much jitter.
        part: bytes sent or fetched by one request of a large object (S3's smallest is 5 MiB).
        parallel: such requests at a time; `parallel * part` bytes of memory at most.
    """

    timeout: float = 30.0
    retries: int = 4
    backoff: float = 1.0
    part: int = 8 << 20
    parallel: int = 4


def retry(limits: Limits) -> urllib3.Retry:
    """The retries of one request. Every request here may be sent twice, also POST: all of them replace."""
    return urllib3.Retry(
        total=limits.retries,
        backoff_factor=limits.backoff / 2,  # urllib3 waits factor * 2**n before retry n + 1, and not before the first
        backoff_jitter=limits.backoff,
        status_forcelist=BUSY,
        allowed_methods=None,
        raise_on_status=False,  # the last answer says more than "too many 503 error responses"
        retry_after_max=10,
    )


def endpoint() -> SplitResult:
    """The server that CLIPTEA_S3_ENDPOINT names.

    Raises:
        StorageError: it is no endpoint; the value is not repeated, since it may hold a password.
    """
    try:
        url = urlsplit(os.environ.get("CLIPTEA_S3_ENDPOINT") or AWS)
        port = url.port
    except ValueError:
        url, port = SplitResult("", "", "", "", ""), None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0 or "@" in url.netloc or url.path.strip("/"):
        raise StorageError("CLIPTEA_S3_ENDPOINT names no endpoint", "http://HOST:PORT or https://HOST and nothing else")
    return url


def connect(limits: Limits) -> minio.Minio:
    """A client of the endpoint with the credentials of the environment. It does not connect yet.

    Raises:
        StorageError: the endpoint is malformed, or there are no credentials.
    """
    url = endpoint()
    # A retry that helps is no news, and one that does not is told by the error.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return minio.Minio(
        url.netloc,
        secure=url.scheme == "https",
        region=os.environ.get("AWS_REGION") or None,
        credentials=_credentials(),
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=limits.timeout, read=limits.timeout),
            retries=retry(limits),
            maxsize=CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        ),
    )


def _credentials() -> ChainedProvider:
    quick = urllib3.PoolManager(timeout=METADATA_TIMEOUT, retries=urllib3.Retry(total=1))
    provider = ChainedProvider([EnvAWSProvider(), AWSConfigProvider(), IamAwsProvider(http_client=quick)])
    try:
        provider.retrieve()
    except (ValueError, KeyError, OSError, HTTPError, ParseError, configparser.Error):
        raise StorageError(
            "there are no credentials for S3",
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a file AWS_SHARED_CREDENTIALS_FILE, or an IAM role",
        ) from None
    return provider


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """What fails inside becomes a StorageError of one line about the object or folder `uri`."""
    try:
        yield
    except S3Error as error:
        raise _refused(error, uri) from None
    except HTTPError as error:
        raise _unreachable(error) from None
    except (MinioException, ParseError) as error:
        what = str(error).partition(", Content-Type")[0]
        raise StorageError(
            f"{_server()} gives no S3 answer for {uri} ({what})", "an S3 server", "check CLIPTEA_S3_ENDPOINT"
        ) from None
    except ValueError as error:  # of minio: a name that no S3 server takes, or XML that none sends
        raise StorageError(
            f"{_server()} cannot serve {uri} ({error})",
            "an S3 server and a valid name",
            "check CLIPTEA_S3_ENDPOINT and the name",
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
        return StorageError(f"there is no bucket {bucket} at {_server()}", todo="create it, or correct the name")
    if code == "InvalidBucketName":
        return StorageError(f"{_server()} takes no bucket of the name in {uri}", "lower case, digits, dots and hyphens")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"):
        return StorageError(
            f"{_server()} does not know the credentials or their secret is wrong ({code})",
            todo="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the file with them",
        )
    if code == "AccessDenied":
        return StorageError(
            f"{_server()} denies access to {uri}",
            "credentials with the right to read, write and list there",
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the bucket's policy",
        )
    return StorageError(f"{_server()} answers {code} for {uri}: {(error.message or '')[:200]}", todo="try again later")


def _unreachable(error: HTTPError) -> StorageError:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, SSLError):
        return StorageError(
            f"no trusted connection to {_server()}: {reason}",
            "a certificate that the CA file vouches for",
            "set SSL_CERT_FILE to the server's CA",
        )
    if isinstance(reason, NewConnectionError):
        what = str(reason).rpartition(": ")[2]
    elif isinstance(reason, TimeoutError):
        what = "no answer in time"
    elif isinstance(reason, ProtocolError):
        what = "the connection breaks again and again"
    else:
        what = str(reason)
    return StorageError(f"S3 cannot be reached at {_server()}: {what}", "a running server", "check CLIPTEA_S3_ENDPOINT")
