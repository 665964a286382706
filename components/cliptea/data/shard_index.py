"""The index of a shard, which contains the position of every member of its records (SHARDS.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cliptea.data.shard_sets import VERSION
from cliptea.errors import StorageError
from cliptea.manifest import StoredObject

__all__ = ["Place", "ShardIndex", "dump_index", "parse_index"]

ABSENT = -1  # offset of a missing member
HASH = 32  # bytes of a sha256


class Place(NamedTuple):
    """The position of a member in its tar file, in bytes, and the sha256 of its content."""

    offset: int
    length: int
    sha256: bytes


class Column(NamedTuple):
    """The members with one extension. A record without such a member has the offset `ABSENT`."""

    offset: np.ndarray  # (records,) int64
    length: np.ndarray  # (records,) int64
    sha256: bytes  # records * HASH


class ShardIndex:
    """A parsed index. A record takes as many bytes as the longest name, and 48 for each member."""

    def __init__(self, tar: StoredObject, names: Sequence[str], columns: dict[str, Column]) -> None:
        self.tar, self._columns = tar, columns
        self._names = np.array([name.encode() for name in names])

    def require_whole(self) -> None:
        """Check that each record has a member, and that all members lie in the tar file.

        Raises:
            ValueError: this is not so.
        """
        number, found = len(self), np.zeros(len(self), dtype=bool)
        for offset, length, sha256 in self._columns.values():
            if not offset.shape == length.shape == (number,) or len(sha256) != number * HASH:
                raise ValueError("a column with another number of records")
            present = offset != ABSENT
            if ((offset < 0) & present).any() or (length < 0).any() or (length > self.tar.size - offset)[present].any():
                raise ValueError("a member outside the tar file")
            found |= present
        if not found.all():
            raise ValueError("a record without members")

    def __len__(self) -> int:
        """Number of records."""
        return len(self._names)

    @property
    def names(self) -> list[str]:
        """Names of the records."""
        return [name.decode() for name in self._names.tolist()]

    def name(self, number: int) -> str:
        """Name of a record."""
        return self._names[number].decode()

    def places(self, number: int) -> dict[str, Place]:
        """The members of a record by extension, in the order of the tar file."""
        found = {}
        for extension, column in self._columns.items():
            offset = int(column.offset[number])
            if offset != ABSENT:
                sha256 = column.sha256[HASH * number : HASH * (number + 1)]
                found[extension] = Place(offset, int(column.length[number]), sha256)
        return found if len(found) == 1 else dict(sorted(found.items(), key=lambda item: item[1].offset))

    def column(self, extension: str) -> Iterator[Place]:
        """The member with this extension of each record, in order.

        Raises:
            StorageError: not all records have it.
        """
        column = self._columns.get(extension)
        if column is None or (column.offset == ABSENT).any():
            raise StorageError(f"the shard {self.tar.key} has records without .{extension}", todo="make it again")
        hashes = (column.sha256[place : place + HASH] for place in range(0, len(column.sha256), HASH))
        return map(Place, column.offset.tolist(), column.length.tolist(), hashes)


def dump_index(tar: StoredObject, names: Sequence[str], records: Sequence[Mapping[str, Place]]) -> bytes:
    """The index file of a shard. Its bytes only depend on the arguments."""
    columns = {}
    for extension in dict.fromkeys(extension for places in records for extension in places):
        mine = [places.get(extension) for places in records]
        columns[extension] = {
            "offset": [place and place.offset for place in mine],
            "length": [place and place.length for place in mine],
            "sha256": [place and place.sha256.hex() for place in mine],
        }
    described = {"version": VERSION, "tar": tar.model_dump(), "names": list(names), "members": columns}
    return json.dumps(described, separators=(",", ":")).encode()


def parse_index(data: bytes, where: str) -> ShardIndex:
    """Parse the index in the bytes of the file `where`.

    Raises:
        StorageError: it is not an index, or it has another version.
    """
    try:
        described = json.loads(data)
        if described["version"] != VERSION:
            raise StorageError(f"{where} is a shard index of version {described['version']}", f"version {VERSION}")
        columns = {
            extension: Column(
                np.array([ABSENT if value is None else value for value in member["offset"]], dtype=np.int64),
                np.array([value or 0 for value in member["length"]], dtype=np.int64),
                bytes.fromhex("".join("0" * 2 * HASH if value is None else value for value in member["sha256"])),
            )
            for extension, member in described["members"].items()
        }
        index = ShardIndex(StoredObject.model_validate(described["tar"]), described["names"], columns)
        index.require_whole()
        return index
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise StorageError(f"{where} is not a shard index", todo="delete it and run again") from None
