"""The object store of one machine: a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cliptea.errors import StorageError
from cliptea.storage.base import Entry, Store, missing, truncated
from cliptea.storage.local_files import is_partial, unusable, write_file
from cliptea.storage.marks import MARK, NEUTRAL

__all__ = ["FileStore"]

NO_OBJECTS = NEUTRAL | {MARK}  # names in the root of a store


class FileStore(Store):
    """Objects as files in one folder, which the first write creates. Reading needs no write permission."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, key: str) -> Path:
        return self.root / key

    def uri(self, key: str) -> str:
        return self.path(key).as_uri()

    def put(self, key: str, data: bytes) -> None:
        write_file(self.path(key), data)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with open(os.path.join(self.root, key), "rb", opener=_open) as file:  # without the time that a Path takes
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise StorageError(f"the object {self.uri(key)} is not a file", "a file", "delete it and run again")
                file.seek(start)
                data = file.read() if length is None else file.read(length)
        except FileNotFoundError:
            raise missing(self.uri(key)) from None
        except OSError as error:
            raise unusable(self.path(key), error) from None
        if length is not None and len(data) != length:
            raise truncated(self.uri(key), start + length)
        return data

    def entry(self, key: str) -> Entry | None:
        path = self.path(key)
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unusable(path, error) from None
        return Entry(key, found.st_size, str(found.st_mtime_ns)) if stat.S_ISREG(found.st_mode) else None

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self.path(prefix)
        if folder.is_dir():
            yield from self._below(str(folder), f"{prefix.strip('/')}/" if prefix else "")

    def _below(self, folder: str, prefix: str) -> Iterator[Entry]:
        """The objects of a folder, whose keys start with `prefix`."""
        try:
            with os.scandir(folder) as found:
                # With "/" after the names of folders, the order of the walk is that of complete keys, as in S3.
                here = (item for item in found if prefix or item.name not in NO_OBJECTS)
                items = {item.name + "/" if item.is_dir() else item.name: item for item in here}
        except OSError as error:
            raise unusable(Path(folder), error) from None
        for name, item in sorted(items.items()):
            if name.endswith("/"):
                if not (item.is_symlink() and _contains(item.path, folder)):  # a link to a parent is a loop
                    yield from self._below(item.path, prefix + name)
            elif not is_partial(name):
                try:
                    if item.is_file():
                        state = item.stat()
                        yield Entry(prefix + name, state.st_size, str(state.st_mtime_ns))
                except FileNotFoundError:  # deleted since it was listed
                    continue
                except OSError as error:
                    raise unusable(Path(item.path), error) from None

    def delete(self, key: str) -> None:
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self.path(key), error) from None

    def drop_empty_folders(self, keys: Iterable[str]) -> None:
        """Delete the folders of deleted objects that are empty now. Only for a store that nobody is writing to."""
        folders = {folder for key in keys for folder in Path(key).parents} - {Path()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(OSError):  # it is not empty, or a link
                (self.root / folder).rmdir()

    def _scratch(self, name: str) -> Path:
        return self.root / "scratch" / name


def _open(path: str, flags: int) -> int:
    """Open a file. Opening a named pipe does not wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _contains(folder: str, other: str) -> bool:
    return Path(other).resolve().is_relative_to(Path(folder).resolve())
