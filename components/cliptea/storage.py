"""Object storage. Every large datum lives under a key of one store; the root is a URI (`CLIPTEA_STORE`).

`file://` serves one machine. Writes are atomic: a reader sees the whole object or none.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from cliptea.errors import StorageError

__all__ = ["FileStore", "open_store"]


def open_store(uri: str | None = None) -> FileStore:
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


class FileStore:
    """Objects as files of one folder. Keys are relative posix paths."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.root, error) from None

    def path(self, key: str) -> Path:
        return self.root / key

    def uri(self, key: str) -> str:
        return self.path(key).as_uri()

    def put(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, atomically."""
        target = self.path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _unusable(target, error) from None

    def put_file(self, key: str, source: Path) -> None:
        """Move the file `source` under `key`, atomically."""
        target = self.path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
        except OSError as error:
            raise _unusable(target, error) from None

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or `length` of them from `start`.

        Raises:
            StorageError: there is no such object, or it is shorter than asked for.
        """
        try:
            with self.path(key).open("rb") as file:
                file.seek(start)
                data = file.read() if length is None else file.read(length)
        except FileNotFoundError:
            raise StorageError(f"the object {self.uri(key)} is missing", todo="run again to make it anew") from None
        except OSError as error:
            raise _unusable(self.path(key), error) from None
        if length is not None and len(data) != length:
            raise StorageError(f"the object {self.uri(key)} is truncated", f"{start + length} bytes")
        return data

    def size(self, key: str) -> int | None:
        """Bytes of the object, or None when there is none."""
        try:
            return self.path(key).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted."""
        for path in sorted(self.path(prefix).rglob("*")):
            if path.is_file() and not path.name.startswith(".partial-"):
                yield path.relative_to(self.root).as_posix()

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    def scratch(self, name: str) -> Path:
        """A folder for unfinished work that a killed step finds again when it is run anew."""
        folder = self.root / "scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_scratch(self, name: str) -> None:
        shutil.rmtree(self.root / "scratch" / name, ignore_errors=True)


def _unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot use {path}: {error.strerror or error}", "a folder that can be written, with space left"
    )
