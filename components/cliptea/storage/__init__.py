"""Object storage. All large data are stored under keys of one store, whose root is a URI.

Use `file:///folder` on one machine, and `s3://bucket/folder` with any S3 server on a cluster.
Environment variables, which `cliptea.env` lists, set the store, the server, the cache and the credentials.
"""

from __future__ import annotations

from dataclasses import replace

from cliptea import env
from cliptea.errors import StorageError
from cliptea.messages import holds_secret
from cliptea.storage.base import Entry, Store
from cliptea.storage.file_store import FileStore
from cliptea.storage.local_files import uri_path
from cliptea.storage.uri import fetch, is_remote, read_small, read_uri, state

__all__ = ["Entry", "FileStore", "Store", "fetch", "is_remote", "open_store", "read_small", "read_uri", "state"]


def open_store(uri: str | None = None, patience: float | None = None) -> Store:
    """The store at `uri`, by default the one in the environment variable CLIPTEA_STORE.

    Args:
        uri: s3://bucket/folder or file:///folder.
        patience: seconds to wait for its server; defaults to `cliptea.outage.patience()`.

    Raises:
        StorageError: no store is set, or its scheme is not supported.
    """
    uri = uri or env.STORE.get()
    if holds_secret(uri):
        raise StorageError(
            f"the address of the object store, {uri}, holds credentials",  # the error hides them
            "an address without them",
            f"correct {env.STORE.name}, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if is_remote(uri):
        from cliptea.storage.s3_store import LIMITS, S3Store, parse

        return S3Store(*parse(uri), limits=replace(LIMITS, patience=patience))
    if not uri.startswith("file:/"):
        raise StorageError(
            f"the object store is {uri!r}",
            "s3://bucket/folder or file:///absolute/folder",
            "set the environment variable CLIPTEA_STORE",
        )
    return FileStore(uri_path(uri))
