"""Object storage. Every large datum lies under a key of one store; its root is a URI.

A run's store is named by the environment variable CLIPTEA_STORE. `file:///folder` serves one machine.

| variable | |
|---|---|
| CLIPTEA_STORE | URI of the store that a run writes to |
| CLIPTEA_CACHE | folder for downloaded objects and unfinished work; default: cliptea in the user's cache folder |
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlparse

from cliptea.errors import StorageError
from cliptea.storage.base import Entry, Store
from cliptea.storage.files import FileStore
from cliptea.storage.local import fetch, is_remote, state

__all__ = ["Entry", "FileStore", "Store", "fetch", "is_remote", "open_store", "state"]


def open_store(uri: str | None = None) -> Store:
    """The store at `uri`, by default the one that the environment variable CLIPTEA_STORE names.

    Raises:
        StorageError: no store is named, or its scheme is not served.
    """
    uri = uri or os.environ.get("CLIPTEA_STORE", "")
    parsed = urlparse(uri)
    if parsed.scheme != "file" or not parsed.path:
        raise StorageError(
            f"the object store is {uri!r}",
            "file:///absolute/folder",
            "set the environment variable CLIPTEA_STORE",
        )
    return FileStore(Path(unquote(parsed.path)))
