"""Shards: plain tar files of records, each with an index of where every member lies.

A record is a name and its members (`NAME.EXTENSION` in the tar, consecutive), so that `tar` and WebDataset read
a shard as it is. The index (`*.index.json`: a list of [name, {extension: [offset, length, sha256]}]) lets a
reader fetch one member with one range request.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping

from cliptea.errors import StorageError
from cliptea.manifest import StoredObject, put_object, read_object
from cliptea.storage import Store

__all__ = ["ShardReader", "ShardWriter"]


class ShardWriter:
    """Collects records and writes a shard each time `limit` bytes are reached. Memory: one shard."""

    def __init__(self, store: Store, prefix: str, limit: int) -> None:
        self._store, self._prefix, self._limit = store, prefix, limit
        self.objects: dict[str, StoredObject] = {}
        self._begin()

    def _begin(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._index: list[tuple[str, dict[str, tuple[int, int, str]]]] = []

    def add(self, name: str, members: Mapping[str, bytes]) -> None:
        """Append a record; the bytes written depend on names and content only."""
        places = {}
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{name}.{extension}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places[extension] = (self._buffer.tell() - padded, len(data), hashlib.sha256(data).hexdigest())
        self._index.append((name, places))
        if self._buffer.tell() >= self._limit:
            self._end()

    def _end(self) -> None:
        self._tar.close()
        number = len(self.objects) // 2
        for suffix, data in (
            ("tar", self._buffer.getvalue()),
            ("index.json", json.dumps(self._index).encode()),
        ):
            name = f"{self._prefix}-{number:05d}.{suffix}"
            self.objects[name.rpartition("/")[2]] = put_object(self._store, name, data)
        self._begin()

    def close(self) -> dict[str, StoredObject]:
        """Write what is left and return every object written, by file name."""
        if self._index:
            self._end()
        return self.objects


class ShardReader:
    """Random access to the records of a shard set. Bytes are checked against their hash as they are read."""

    def __init__(self, store: Store, objects: Mapping[str, StoredObject], prefix: str) -> None:
        self._store = store
        self._places: dict[str, tuple[str, dict[str, tuple[int, int, str]]]] = {}
        for name, item in sorted(objects.items()):
            if name.startswith(f"{prefix}-") and name.endswith(".index.json"):
                tar = objects[name.removesuffix("index.json") + "tar"].key
                for record, places in json.loads(read_object(store, item)):
                    self._places[record] = (tar, places)

    @property
    def names(self) -> list[str]:
        """Names of all records in the order of writing."""
        return list(self._places)

    def extensions(self, name: str) -> list[str]:
        return list(self._places[name][1])

    def read(self, name: str, extension: str) -> bytes:
        """One member of one record.

        Raises:
            StorageError: its bytes are not those that were written.
        """
        tar, places = self._places[name]
        offset, length, sha256 = places[extension]
        data = self._store.get(tar, offset, length)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageError(
                f"the record {name}.{extension} of {self._store.uri(tar)} is damaged",
                f"sha256 {sha256}",
                "delete the file and run again",
            )
        return data
