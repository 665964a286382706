"""Object storage. Every large datum lies under a key of one store; its root is a URI.

`file:///folder` serves one machine, `s3://bucket/folder` a cluster, with any S3 server.

| variable | |
|---|---|
| CLIPTEA_STORE | URI of the store that a run writes to |
| CLIPTEA_CACHE | folder for downloaded objects and unfinished work; default: cliptea in the user's cache folder |
| CLIPTEA_CACHE_GIB | how much of it shards read from S3 may take; default: 16, the least recently used go first |
| CLIPTEA_S3_ENDPOINT | http(s)://HOST:PORT of the S3 server; default: AWS |
| AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN | credentials; without them, |
| AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE | a (mounted) file of credentials and its section; without it, an IAM role |
| AWS_REGION | region of the bucket; default: the server is asked |
| SSL_CERT_FILE | CA file for https; default: certifi's |
| CLIPTEA_PATIENCE | seconds that a server may be away, S3 as any other; default: 600 in a step, 10 in a command |
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from cliptea.errors import StorageError
from cliptea.storage.base import Entry, Store
from cliptea.storage.file_store import FileStore
from cliptea.storage.uri import fetch, is_remote, read_uri, state

__all__ = ["Entry", "FileStore", "Store", "fetch", "is_remote", "open_store", "read_uri", "state"]


def open_store(uri: str | None = None, patience: float | None = None) -> Store:
    """The store at `uri`, by default the one that the environment variable CLIPTEA_STORE names.

    Args:
        uri: s3://bucket/folder or file:///folder.
        patience: seconds that its server may be away; default: `cliptea.outage.patience()`.

    Raises:
        StorageError: no store is named, or its scheme is not served.
    """
    uri = uri or os.environ.get("CLIPTEA_STORE", "")
    if is_remote(uri):
        from cliptea.storage.minio_client import Limits
        from cliptea.storage.s3_store import S3Store, parse

        return S3Store(*parse(uri), limits=Limits(patience=patience))
    parsed = urlparse(uri)
    if parsed.scheme != "file" or not parsed.path:
        raise StorageError(
            f"the object store is {uri.rpartition('@')[2]!r}",  # before an @ stands a password
            "s3://bucket/folder or file:///absolute/folder",
            "set the environment variable CLIPTEA_STORE",
        )
    return FileStore(Path(unquote(parsed.path)))
