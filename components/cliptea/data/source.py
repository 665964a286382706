"""The raw files of a data set: a local folder or an s3:// prefix, which is only ever read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from cliptea.errors import DataError
from cliptea.storage import Entry, Store, open_store

__all__ = ["Source"]


class Source:
    """Files by their path relative to the data set's folder. A folder is listed once, when it is first asked for."""

    def __init__(self, root: str | None, holds: str, folders: Sequence[str] = ("",), marks: Sequence[str] = ()) -> None:
        """Look at nothing yet but whether a local root is there.

        Args:
            root: `data.root`: a folder, or a URI such as s3://bucket/prefix.
            holds: what lies in it, for the error's text.
            folders: where below the root the data set may lie; the first is taken that has the marks.
            marks: folders of the data set, one of which must hold files.

        Raises:
            DataError: no root is given, or there is no such folder.
            StorageError: the URI's scheme is not served.
        """
        if root is None:
            raise DataError("data.root is not set", f"the folder of {holds}", "add --set data.root=FOLDER")
        self._root = root.rstrip("/") if "://" in root else str(Path(root).expanduser())
        if "://" not in root and not Path(self._root).is_dir():
            raise DataError(f"data.root={root} is not a folder", f"the folder of {holds}")
        self._store: Store = open_store(root if "://" in root else Path(self._root).absolute().as_uri())
        self._holds, self._folders, self._marks = holds, folders, marks
        self._listed: dict[str, dict[str, Entry]] = {}

    @cached_property
    def _base(self) -> str:
        """What stands before a path in the store's keys."""
        for folder in self._folders:
            base = f"{folder}/" if folder else ""
            if not self._marks or any(self._list(f"{base}{mark}") for mark in self._marks):
                return base
        looked = [
            "/".join(filter(None, (self._root, folder, mark))) for folder in self._folders for mark in self._marks
        ]
        raise DataError(f"data.root={self._root} does not hold {self._holds}", f"files in {' or '.join(looked)}")

    def files(self, folder: str) -> dict[str, Entry]:
        """Files that lie directly in `folder`, by name and sorted by it; none where there is no such folder."""
        return self._list(f"{self._base}{folder}")

    def entry(self, path: str) -> Entry | None:
        """What the listing of its folder says of a file."""
        folder, _, name = path.rpartition("/")
        return self.files(folder).get(name)

    def where(self, path: str) -> str:
        """The file's full path or URI, for messages."""
        return f"{self._root}/{self._base}{path}"

    def read(self, path: str) -> bytes:
        return self._store.get(f"{self._base}{path}")

    def has(self, path: str) -> bool:
        """Whether a single file is there, found without a listing of its folder."""
        return self._store.size(f"{self._base}{path}") is not None

    def _list(self, folder: str) -> dict[str, Entry]:
        if folder not in self._listed:
            found = ((entry.key.removeprefix(f"{folder}/"), entry) for entry in self._store.entries(folder))
            self._listed[folder] = {name: entry for name, entry in found if "/" not in name}
        return self._listed[folder]
