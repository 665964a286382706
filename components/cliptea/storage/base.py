"""The interface of all object stores. The rest of the program only uses this type."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from cliptea.errors import Missing, StorageError
from cliptea.storage.local_files import lock_file, make_folder

__all__ = ["Entry", "Store", "missing", "truncated"]


class Entry(NamedTuple):
    """An object with its key, its size, and a version that changes whenever its content is written."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """Objects of bytes under keys, which are relative POSIX paths. An object either exists completely or not at all.

    Every method raises a StorageError of one line if the store cannot do it. Stores can be pickled, and can be used
    from several threads and from forked processes.
    """

    def uri(self, key: str) -> str:
        """The URI of the object, for `fetch` and for messages."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`."""
        ...

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes from `start`: all of them, or exactly `length`.

        Raises:
            StorageError: the object does not exist, or it is too short.
        """
        ...

    def entry(self, key: str) -> Entry | None:
        """Information about the object without reading it, or None if it does not exist."""
        ...

    def size(self, key: str) -> int | None:
        """Size of the object in bytes, or None if it does not exist."""
        entry = self.entry(key)
        return entry and entry.size

    def entries(self, prefix: str) -> Iterator[Entry]:
        """All objects below the folder `prefix` ("" for all), sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        ...

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A local folder for unfinished work, which only one process uses at a time. It is deleted at the end.

        After an error or a kill it stays, and a step that is repeated on this machine finds it again.
        """
        folder = self._scratch(name)
        lock = make_folder(folder.parent) / f"{folder.name}.lock"  # not inside the folder, which is deleted
        with lock_file(lock, f"works in {folder}"):
            make_folder(folder)
            yield folder
            shutil.rmtree(folder, ignore_errors=True)

    def _scratch(self, name: str) -> Path:
        """Where the scratch folder is."""
        ...


def missing(uri: str) -> Missing:
    """The error for an object that does not exist."""
    return Missing(f"the object {uri} is missing", todo="run again to recreate it")


def truncated(uri: str, size: int) -> StorageError:
    """The error for an object with fewer than `size` bytes."""
    return StorageError(f"the object {uri} is truncated", f"{size} bytes")
