"""The object store for a cluster: a bucket, or a folder in a bucket, on any S3 server. It uses the minio client."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ProtocolError, ReadTimeoutError

from cliptea import watchdog
from cliptea.errors import StorageError
from cliptea.storage.base import Entry, Store, missing, truncated
from cliptea.storage.local_files import escaped_path, new_file
from cliptea.storage.marks import claim_cache
from cliptea.storage.minio_client import Limits, absence, connect
from cliptea.storage.s3_errors import explained, why

__all__ = ["LIMITS", "S3Store", "parse"]

LIMITS = Limits()
PIECE = 1 << 20  # bytes that are read between two signs of life for the watchdog
UPLOADS = 5  # attempts for an object whose parts the server has lost
BEYOND_END = ("InvalidRange", "InvalidArgument")  # error for a range beyond the end: from S3, from some other servers


def parse(uri: str) -> tuple[str, str]:
    """Bucket and key (or prefix, which may be "") of an s3:// URI. Escapes are not decoded.

    Raises:
        StorageError: the URI has no bucket. The error does not show the URI, because it may contain a password.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or set(bucket) & set("@:?"):
        raise StorageError(
            "an s3:// URI does not name a bucket", "s3://BUCKET/FOLDER, with the server in CLIPTEA_S3_ENDPOINT"
        )
    return bucket, key.strip("/")


class S3Store(Store):
    """Objects of `bucket` below `prefix`. S3 only shows complete objects."""

    def __init__(self, bucket: str, prefix: str = "", limits: Limits | None = None) -> None:
        self.bucket, self.prefix, self.limits = bucket, prefix, limits or LIMITS
        self._connected: tuple[int, minio.Minio] | None = None

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str, Limits]]:
        return S3Store, (self.bucket, self.prefix, self.limits)

    @property
    def _client(self) -> minio.Minio:
        # A fork needs a new connection, because two processes with one socket would read each other's answers.
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), connect(self.limits)
        return self._connected[1]

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._name(key)}"

    def put(self, key: str, data: bytes) -> None:
        with explained(self.uri(key)):
            for _ in range(UPLOADS):
                try:
                    done = self._client.put_object(
                        self.bucket,
                        self._name(key),
                        io.BytesIO(data),
                        len(data),
                        part_size=self.limits.part,
                        num_parallel_uploads=self.limits.parallel,
                    )
                except S3Error as error:
                    # The server completed the upload but its answer was lost, so the retry does not find the upload.
                    if error.code != "NoSuchUpload":
                        raise
                    if self._combined(key, data):
                        return
                else:
                    if done.etag:  # without it, the answer was an error with status 200, as S3 may send it
                        return
        raise StorageError(f"S3 cannot combine the parts of {self.uri(key)}", todo="try again later")

    def _combined(self, key: str, data: bytes) -> bool:
        """Whether the server has combined the parts of an object, or does so soon; this may take longer than an answer.

        The bytes are compared, once for each version that appears, because not every server makes ETags of MD5s.
        """
        deadline, others = time.monotonic() + 2 * self.limits.timeout, set[str]()
        while True:
            found = self.entry(key)
            if found is not None and found.size == len(data) and found.version not in others:
                if self._holds(key, data):
                    return True
                others.add(found.version)
            if time.monotonic() > deadline:
                return False
            time.sleep(self.limits.timeout / 30)

    def _holds(self, key: str, data: bytes) -> bool:
        size = self.limits.part
        pieces = ((at, data[at : at + size]) for at in range(0, len(data), size))
        return all(self.get(key, at, len(piece)) == piece for at, piece in pieces)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:  # S3 has no request for zero bytes
            if self.entry(key) is None:
                raise missing(self.uri(key))
            return b""
        with explained(self.uri(key)):
            try:
                data, _ = self._read(key, start, length or 0)
            except S3Error as error:
                if error.code not in BEYOND_END or (self.size(key) or 0) >= start + (length or 1):
                    raise
                data = b""
        if length is not None and len(data) != length:
            raise truncated(self.uri(key), start + length)
        return data

    def _read(self, key: str, start: int, length: int) -> tuple[bytes, str]:
        """`length` bytes from `start`, or all if it is 0, and the version. An incomplete body is read again."""
        outage = absence(self.limits)
        while True:
            response = self._client.get_object(self.bucket, self._name(key), start, length)
            try:
                data = _body(response)
            except (ProtocolError, ReadTimeoutError) as error:
                response.close()
                if not outage.wait(why(error)):
                    raise
            else:
                outage.over()
                return data, response.headers.get("etag", "").strip('"')
            finally:
                response.release_conn()

    def entry(self, key: str) -> Entry | None:
        with explained(self.uri(key)):
            try:
                found = self._client.stat_object(self.bucket, self._name(key))
            except S3Error as error:
                if error.code != "NoSuchKey":
                    raise
                return None
        return Entry(key, found.size or 0, found.etag or "")

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self._name(prefix).rstrip("/")
        with explained(self.uri(prefix)):
            for found in self._client.list_objects(self.bucket, prefix=folder and f"{folder}/", recursive=True):
                name = found.object_name or ""
                if not name.endswith("/"):  # S3 consoles create such objects for empty folders
                    yield Entry(name.removeprefix(self._name("")), found.size or 0, (found.etag or "").strip('"'))

    def delete(self, key: str) -> None:
        with explained(self.uri(key)):
            self._client.remove_object(self.bucket, self._name(key))

    def _scratch(self, name: str) -> Path:
        return claim_cache() / "scratch" / escaped_path(self.bucket, self.prefix, name)

    def download(self, entry: Entry, target: Path) -> None:
        """Write this version of the object to the file `target`, with parallel range requests.

        Raises:
            StorageError: the object has changed, or cannot be read. `target` is not changed then.
        """

        def fill(start: int) -> None:
            length = min(self.limits.part, entry.size - start)
            data, version = self._read(entry.key, start, length)
            if version != entry.version or len(data) != length:
                raise StorageError(f"the object {self.uri(entry.key)} changed while it was read", todo="run again")
            view = memoryview(data)
            while view:
                written = os.pwrite(file.fileno(), view, start + len(data) - len(view))
                view = view[written:]

        with explained(self.uri(entry.key)), new_file(target) as file, ThreadPoolExecutor(self.limits.parallel) as pool:
            for _ in pool.map(fill, range(0, entry.size, self.limits.part)):
                pass


def _body(response: BaseHTTPResponse) -> bytes:
    """The whole body. The watchdog does not see what a socket receives, so it is told of every piece."""
    body = io.BytesIO()  # whose value, in contrast to joined pieces, is not copied
    for piece in response.stream(PIECE, decode_content=False):
        body.write(piece)
        watchdog.alive()
    return body.getvalue()
