"""The object store of one machine: a folder."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cliptea.errors import StorageError
from cliptea.storage.base import Entry

__all__ = ["FileStore", "make_folder", "missing", "new_file", "truncated", "unusable"]

PARTIAL = ".partial-"  # first characters of the names of files that are not whole


class FileStore:
    """Objects as files of one folder, which the first write makes. Reading needs no right to write."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, key: str) -> Path:
        return self.root / key

    def uri(self, key: str) -> str:
        return self.path(key).as_uri()

    def put(self, key: str, data: bytes) -> None:
        with new_file(self.path(key)) as file:
            file.write(data)

    def put_file(self, key: str, source: Path) -> None:
        target = self.path(key)
        make_folder(target.parent)
        try:
            os.replace(source, target)
        except OSError as error:
            raise unusable(target, error) from None

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with self.path(key).open("rb") as file:
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
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unusable(path, error) from None
        return Entry(key, stat.st_size, str(stat.st_mtime_ns)) if path.is_file() else None

    def size(self, key: str) -> int | None:
        entry = self.entry(key)
        return entry and entry.size

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = self.path(prefix)
        if folder.is_dir():
            yield from self._below(folder)

    def _below(self, folder: Path) -> Iterator[Entry]:
        try:
            with os.scandir(folder) as found:
                # "/" behind a folder's name makes the walk's order that of whole keys, as S3 lists them.
                items = sorted((item.name + "/" * item.is_dir(), item) for item in found)
        except OSError as error:
            raise unusable(folder, error) from None
        for name, item in items:
            path = folder / item.name
            if not name.endswith("/"):
                entry = None if name.startswith(PARTIAL) else self.entry(path.relative_to(self.root).as_posix())
                if entry is not None:
                    yield entry
            elif not (item.is_symlink() and folder.resolve().is_relative_to(path.resolve())):  # a link to above: a loop
                yield from self._below(path)

    def delete(self, key: str) -> None:
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self.path(key), error) from None

    def scratch(self, name: str) -> Path:
        return make_folder(self.root / "scratch" / name)

    def drop_scratch(self, name: str) -> None:
        shutil.rmtree(self.root / "scratch" / name, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `target` when the block ends well, and else leaves no trace."""
    make_folder(target.parent)
    try:
        name = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}")  # made with the user's own mode, for shared volumes
        try:
            with name.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unusable(target, error) from None


def make_folder(path: Path) -> Path:
    """The folder `path`, made when it is not there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    return path


def missing(uri: str) -> StorageError:
    return StorageError(f"the object {uri} is missing", todo="run again to recreate it")


def truncated(uri: str, size: int) -> StorageError:
    return StorageError(f"the object {uri} is truncated", f"{size} bytes")


def unusable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot use {path}: {error.strerror or error}", "a writable folder with free space")
