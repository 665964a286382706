"""The raw files of a data set, in a local folder or under an s3:// prefix. They are never changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from posixpath import splitext

from cliptea.addresses import is_uri
from cliptea.data.sample import LARGEST_FILE
from cliptea.errors import ConfigError, DataError
from cliptea.files import oddity
from cliptea.messages import printable
from cliptea.names import composed
from cliptea.storage import Entry, FileStore, Store, open_store

__all__ = ["Source", "one_form"]

HIDDEN, FOLDER = "hidden or system files", "sub-folders are not searched"
SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found"}


@dataclass
class Listing:
    """The content of one folder: its files by name, and why each other name in it is left out."""

    files: dict[str, Entry]
    others: dict[str, str]

    @cached_property
    def spelled(self) -> dict[str, str]:
        """The name of each file by its `one_form`. Few data sets need it."""
        return {one_form(name): name for name in reversed(self.files)}

    def spelling(self, name: str) -> str:
        return name if name in self.files else self.spelled.get(one_form(name), name)


def one_form(name: str) -> str:
    """A file name in Unicode's composed form (NFC) with a lower-case suffix. Names that are equal so are one name."""
    stem, suffix = splitext(composed(name))
    return stem + suffix.lower()


class Source:
    """Files by their path in the folder of the data set. Each folder is listed once, on first use."""

    def __init__(self, root: str | None, holds: str, folders: Sequence[str] = ("",), marks: Sequence[str] = ()) -> None:
        """Open the root. This only checks whether a local root exists.

        Args:
            root: `data.root`, which is a folder, or a URI such as s3://bucket/prefix.
            holds: the expected content, for errors.
            folders: possible folders of the data set below the root. The first one with a mark is used.
            marks: folders of the data set, of which at least one must contain files.

        Raises:
            ConfigError: no root is given.
            DataError: the folder does not exist.
            StorageError: the scheme of the URI is not supported.
        """
        if root is None:
            raise ConfigError("data.root is not set", f"the folder of {holds}", "add --set data.root=FOLDER")
        self._root = root.rstrip("/") if is_uri(root) else os.path.expanduser(root)
        if not is_uri(root) and (odd := oddity(self._root)) != "a folder":
            why = f" ({odd})" if odd else ""
            raise DataError(f"data.root={root} is not a folder{why}", f"the folder of {holds}")
        self._store: Store = open_store(root if is_uri(root) else Path(self._root).absolute().as_uri())
        self._holds, self._folders, self._marks = holds, folders, marks
        self._listed: dict[str, Listing] = {}
        self._entries: dict[str, Entry] = {}  # all listed files by their path in the store

    @cached_property
    def _base(self) -> str:
        """The prefix of paths in the keys of the store."""
        for folder in self._folders:
            base = f"{folder}/" if folder else ""
            if not self._marks or any(self._list(f"{base}{mark}").files for mark in self._marks):
                return base
        looked = [
            "/".join(filter(None, (self._root, folder, mark))) for folder in self._folders for mark in self._marks
        ]
        raise DataError(f"data.root={self._root} does not hold {self._holds}", f"files in {' or '.join(looked)}")

    def files(self, folder: str) -> dict[str, Entry]:
        """The files directly in `folder`, sorted by name. Empty if the folder does not exist."""
        return self._list(self._in_store(folder)).files

    def others(self, folder: str) -> dict[str, str]:
        """What else is directly in `folder`, and why it is left out: sub-folders, hidden files, named pipes, ..."""
        return self._list(self._in_store(folder)).others

    @property
    def is_local(self) -> bool:
        return isinstance(self._store, FileStore)

    def find(self, path: str) -> str:
        """The path as its folder spells it: in another Unicode form, or with a suffix in another case."""
        if self._base + path in self._entries:
            return path
        folder, _, name = path.rpartition("/")
        found = self._list(self._in_store(folder)).spelling(name)
        return f"{folder}/{found}" if folder else found

    def entry(self, path: str) -> Entry | None:
        """The entry of a file in the list of its folder. The path may be spelled as in `find`."""
        return self._entries.get(self._base + self.find(path))

    def absence(self, path: str) -> str:
        """Why a file has no entry: "missing", or what is in its place, such as "a named pipe"."""
        folder, _, name = path.rpartition("/")
        return self.others(folder).get(name, "missing")

    def where(self, path: str) -> str:
        """The file's full path or URI, for messages."""
        return f"{self._root}/{self._base}{path}"

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it is far too large for an image or a list.
            StorageError: it cannot be read.
        """
        entry = self._entries.get(self._base + path)
        if entry and entry.size > LARGEST_FILE:
            raise DataError(f"{self.where(path)} has {entry.size} bytes", f"at most {LARGEST_FILE} bytes")
        return self._store.get(f"{self._base}{path}")

    def size(self, path: str) -> int | None:
        """The bytes of a single file, or None if there is none. Its folder is not listed."""
        return self._store.size(f"{self._base}{path}")

    def _in_store(self, folder: str) -> str:
        return f"{self._base}{folder}".rstrip("/")

    def _list(self, folder: str) -> Listing:
        if folder not in self._listed:
            files, others = self._look(folder)
            for name in [name for name in files if name.startswith(".") or name.lower() in SYSTEM]:
                del files[name]
                others[name] = HIDDEN
            self._listed[folder] = Listing(dict(sorted(files.items())), others)
            self._entries.update((entry.key, entry) for entry in files.values())
        return self._listed[folder]

    def _look(self, folder: str) -> tuple[dict[str, Entry], dict[str, str]]:
        files: dict[str, Entry] = {}
        others: dict[str, str] = {}
        if isinstance(self._store, FileStore):
            here, start = self._store.path(folder), f"{folder}/" if folder else ""
            try:
                items = [*os.scandir(here)] if here.is_dir() else []
            except OSError as error:
                raise DataError(
                    f"cannot read the folder {here} ({error.strerror or error})", "a folder that you may read"
                ) from None
            for item in items:
                name = item.name
                try:
                    found = item.stat()
                except OSError:
                    found = None
                if found is None or not stat.S_ISREG(found.st_mode):
                    odd = oddity(item.path)
                    others[printable(name)] = FOLDER if odd == "a folder" else odd
                elif not name.isprintable():
                    others[printable(name)] = "names that are not UTF-8, or hold control characters"
                else:
                    files[name] = Entry(start + name, found.st_size, str(found.st_mtime_ns))
            return files, others
        for entry in self._store.entries(folder):
            name, slash, _ = entry.key.removeprefix(f"{folder}/" if folder else "").partition("/")
            if slash:
                others[name] = FOLDER
            else:
                files[name] = entry
        return files, others
