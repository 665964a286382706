"""Object storage. All large data are stored under the keys of one store, whose root is a URI.

`file:///folder` serves one machine, `s3://bucket/folder` a cluster, with any S3 server.

| variable | |
|---|---|
| CLIPTEA_STORE | URI of the store that a run writes to |
| CLIPTEA_CACHE | folder for downloaded objects and unfinished work; default: cliptea in the user's cache folder |
| CLIPTEA_CACHE_GIB | limit for cached shards from S3; default: 16, the least recently used ones are deleted first |
| CLIPTEA_S3_ENDPOINT | http(s)://HOST:PORT of the S3 server; default: AWS |
| AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN | credentials; without them, |
| AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE | a (mounted) file of credentials and its section; without it, an IAM role |
| AWS_REGION | region of the bucket; default: as reported by the server |
| SSL_CERT_FILE | CA file for https; default: certifi's |
| CLIPTEA_PATIENCE | seconds to wait for S3 and other servers that are down; default: 600 in a step, 10 in a command |
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from cliptea.errors import StorageError
from cliptea.storage.base import Entry, Store
from cliptea.storage.files import FileStore
from cliptea.storage.local import fetch, is_remote, read_uri, state

__all__ = ["Entry", "FileStore", "Store", "fetch", "is_remote", "open_store", "read_uri", "state"]


def open_store(uri: str | None = None, patience: float | None = None) -> Store:
    """The store at `uri`, by default the one in the environment variable CLIPTEA_STORE.

    Args:
        uri: s3://bucket/folder or file:///folder.
        patience: seconds to wait for its server; defaults to `cliptea.outage.patience()`.

    Raises:
        StorageError: no store is set, or its scheme is not supported.
    """
    uri = uri or os.environ.get("CLIPTEA_STORE", "")
    if is_remote(uri):
        from cliptea.storage.client import Limits
        from cliptea.storage.s3 import S3Store, parse

        return S3Store(*parse(uri), limits=Limits(patience=patience))
    parsed = urlparse(uri)
    if parsed.scheme != "file" or not parsed.path:
        raise StorageError(
            f"the object store is {uri.rpartition('@')[2]!r}",  # before an @ stands a password
            "s3://bucket/folder or file:///absolute/folder",
            "set the environment variable CLIPTEA_STORE",
        )
    return FileStore(Path(unquote(parsed.path)))
