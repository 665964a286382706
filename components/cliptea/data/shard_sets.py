"""Shard sets. A manifest refers to a shard set by its top index, which is written after all shards."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field, ValidationError

from cliptea import progress
from cliptea.errors import ServerAway, StorageError, Unusable
from cliptea.manifest import Manifest, Output, StoredObject, find_whole, put_immutable, read_object
from cliptea.storage import Store

__all__ = ["VERSION", "ShardEntry", "TopIndex", "find_sharded", "put_top_index", "read_top_index"]

VERSION = 2  # version of top indexes and shard indexes; readers reject other versions


class ShardEntry(BaseModel):
    """One shard with its tar file, its index and its number of records."""

    tar: StoredObject
    index: StoredObject
    records: int = Field(ge=0, le=1 << 40)


class TopIndex(BaseModel):
    """The shards of a set in the order of their records."""

    version: int = VERSION
    shards: list[ShardEntry]


def put_top_index(store: Store, prefix: str, shards: Sequence[ShardEntry]) -> dict[str, StoredObject]:
    """Write the top index of the shard set in the folder `prefix`. Returns it as the objects of a manifest."""
    top = TopIndex(shards=list(shards)).model_dump_json().encode()
    return {prefix.rpartition("/")[2]: put_immutable(store, f"{prefix}/index", ".json", top)}


def read_top_index(store: Store, item: StoredObject, *, keep: bool = False) -> list[ShardEntry]:
    """The shards of a set.

    Args:
        keep: do not delete a damaged top index, see `read_object`.

    Raises:
        StorageError: the top index is missing or damaged, or has another version.
    """
    data, where = read_object(store, item, keep=keep), store.uri(item.key)
    try:
        top = TopIndex.model_validate_json(data)
    except ValidationError:
        raise StorageError(f"{where} is not a top index of shards", todo="delete it and run again") from None
    if top.version != VERSION:
        raise StorageError(f"{where} is a top index of version {top.version}", f"version {VERSION}")
    return top.shards


def find_sharded(store: Store, output: Output) -> Manifest | None:
    """Like `find_whole`, for an output with shard sets. All shards must also exist with their recorded sizes."""
    manifest = find_whole(store, output)
    if manifest is None:
        return None
    try:
        shards = [shard for item in manifest.objects.values() for shard in read_top_index(store, item)]
    except (ServerAway, Unusable):
        raise
    except StorageError:  # damaged, so the output is created again
        return None
    sizes = {entry.key: entry.size for entry in store.entries(output.prefix)}
    lacking = [item.key for shard in shards for item in (shard.tar, shard.index) if sizes.get(item.key) != item.size]
    if lacking:
        others = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        progress.note(f"{store.uri(lacking[0])} is missing or truncated{others}; the lost shards are rebuilt")
    return None if lacking else manifest
