"""The address of the S3 server, and what its errors mean, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import SplitResult, urlsplit
from xml.etree.ElementTree import ParseError

from minio.error import MinioException, S3Error
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

from cliptea import env
from cliptea.errors import ServerAway, StorageError, one_line
from cliptea.messages import of_connection
from cliptea.outage import untrusted
from cliptea.storage.base import missing
from cliptea.storage.proxies import proxy_for

__all__ = ["PASSING", "cause", "endpoint", "explained", "is_untrusted", "server", "why"]

AWS = "https://s3.amazonaws.com"
# Errors of S3 that may pass, also with a status such as 400 or 409. A request that stalls is a RequestTimeout.
PASSING = ("RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "InternalError", "OperationAborted")
NO_ROOM = ("free space in the bucket and on the disks of the server", "free some space there, or raise the quota")
REGION = ("the region of the bucket", "set AWS_REGION to it, or unset it if the buckets are in several regions")
# Refusals that waiting does not fix: what the server expects, and what to do.
REMEDIES = {
    "RequestTimeTooSkewed": ("a clock that is right to within 15 minutes", "set the clock of this machine"),
    "AuthorizationHeaderMalformed": REGION,
    "IllegalLocationConstraintException": REGION,
    "PermanentRedirect": REGION,
    "XMinioStorageFull": NO_ROOM,
    "XMinioAdminBucketQuotaExceeded": NO_ROOM,
    "QuotaExceeded": NO_ROOM,
    "EntityTooLarge": ("an object of the size that it allows", "raise its limit, or use another server"),
    # AWS says no more than that in its answer to a HEAD.
    "BadRequest": (
        "credentials that have not expired, and the region of the bucket",
        "renew AWS_SESSION_TOKEN if it is set, and check AWS_REGION",
    ),
}


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
            raise StorageError(f"S3 cannot be used at {server()}: {known[0]}", todo=known[1]) from None
        raise StorageError(
            f"{server()} does not answer like an S3 server for {uri} ({what})",
            "an S3 server",
            f"check {_named()}",
        ) from None
    except ValueError as error:  # from minio: an invalid name, or invalid XML
        raise StorageError(
            f"{server()} cannot serve {uri} ({error})",
            "an S3 server and a valid name",
            f"check {_named()} and the name",
        ) from None


def server() -> str:
    """The server for messages. Behind a proxy, what it seems to answer may come from the proxy."""
    url = endpoint()
    return f"{url.scheme}://{url.netloc}" + (f" through the proxy in {url.scheme.upper()}_PROXY" * bool(proxy_for(url)))


def _refused(error: S3Error, uri: str) -> StorageError:
    code = error.code or ""
    if code in ("NoSuchKey", "NoSuchObject"):
        return missing(uri)
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return StorageError(f"the bucket {bucket} does not exist at {server()}", todo="create it, or correct the name")
    if code == "InvalidBucketName":
        return StorageError(
            f"{server()} does not allow the bucket name in {uri}", "lower case letters, digits, dots and hyphens"
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidClientTokenId"):
        return StorageError(
            f"{server()} rejects the credentials ({code})",
            todo="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the file with them",
        )
    if code == "AccessDenied":
        return StorageError(
            f"{server()} denies access to {uri}",
            "credentials with permission to read, write and list there",
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and the bucket's policy",
        )
    expected, todo = REMEDIES.get(code, ("", "try again later"))
    kind = ServerAway if code in PASSING else StorageError
    return kind(f"{server()} answers {code} for {uri}: {(error.message or '')[:200]}", expected, todo)


def _unreachable(error: HTTPError) -> StorageError:
    if known := of_connection(cause(error)):
        return StorageError(f"S3 cannot be reached at {server()}: {known[0]}", todo=known[1])
    if is_untrusted(error):
        return StorageError(
            f"no trusted connection to {server()}: {cause(error)}",
            "a certificate signed by a trusted CA",
            "set SSL_CERT_FILE to the server's CA",
        )
    to_check = f"{_named()} and NO_PROXY" if proxy_for(endpoint()) else _named()
    return ServerAway(
        f"S3 cannot be reached at {server()}: {why(error)}",
        "a running server",
        f"check {to_check}, or wait longer with CLIPTEA_PATIENCE",
    )


def why(error: HTTPError) -> str:
    """The reason of a failed attempt in a few words."""
    reason = cause(error)
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


def is_untrusted(error: HTTPError) -> bool:
    reason = cause(error)
    return isinstance(reason, SSLError) and untrusted(reason.args[0])  # urllib3's error contains Python's


def cause(error: HTTPError) -> Exception:
    return error.reason if isinstance(error, MaxRetryError) and error.reason else error
