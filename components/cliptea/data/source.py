"""The raw files of a data set, in a local folder or under an s3:// prefix. They are never changed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from cliptea.errors import DataError
from cliptea.storage import Entry, Store, open_store

__all__ = ["Source"]


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
            DataError: no root is given, or the folder does not exist.
            StorageError: the scheme of the URI is not supported.
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
        """The prefix of paths in the keys of the store."""
        for folder in self._folders:
            base = f"{folder}/" if folder else ""
            if not self._marks or any(self._list(f"{base}{mark}") for mark in self._marks):
                return base
        looked = [
            "/".join(filter(None, (self._root, folder, mark))) for folder in self._folders for mark in self._marks
        ]
        raise DataError(f"data.root={self._root} does not hold {self._holds}", f"files in {' or '.join(looked)}")

    def files(self, folder: str) -> dict[str, Entry]:
        """The files directly in `folder`, sorted by name. Empty if the folder does not exist."""
        return self._list(f"{self._base}{folder}")

    def entry(self, path: str) -> Entry | None:
        """The entry of a file in the list of its folder."""
        folder, _, name = path.rpartition("/")
        return self._list(self._base + folder).get(name)

    def where(self, path: str) -> str:
        """The file's full path or URI, for messages."""
        return f"{self._root}/{self._base}{path}"

    def read(self, path: str) -> bytes:
        return self._store.get(f"{self._base}{path}")

    def has(self, path: str) -> bool:
        """Whether a single file exists, without listing its folder."""
        return self._store.size(f"{self._base}{path}") is not None

    def _list(self, folder: str) -> dict[str, Entry]:
        if folder not in self._listed:
            found = ((entry.key.removeprefix(f"{folder}/"), entry) for entry in self._store.entries(folder))
            self._listed[folder] = {name: entry for name, entry in found if "/" not in name}
        return self._listed[folder]
