"""What a step leaves behind: objects in the store and one small manifest that names them.

A manifest is written last, so that what it names is whole. Its *fingerprint* is taken over everything that
decides the content: the version of its kind, its part of the config, and the fingerprints of its inputs. An output
whose manifest is there, with objects of the recorded sizes, is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from cliptea.errors import StorageError
from cliptea.storage import Store

__all__ = [
    "Contents", "Manifest", "Output", "StoredObject", "find", "fingerprint", "make_once", "publish", "put_immutable",
    "put_object", "read_object",
]  # fmt: skip

SCHEMA_VERSION = 1

# The version of everything that has a fingerprint. Raise one by hand when the same settings come to mean something
# else: outputs of that kind, and those that are made from them, are then made anew.
VERSIONS = {
    # outputs in the store
    "split": 4,
    "demo-teacher": 2,
    "tokens": 4,  # the dense tokens' as well
    "regions": 2,
    "text": 1,
    "train": 3,
    "evaluate": 2,
    "compare": 4,
    # notes in the store of what MLflow has been told
    "data": 1,
    "evaluated": 2,
    "promote": 3,
    # keys that are compared or are parts of other fingerprints
    "run": 1,
    "variant": 2,
    "world": 2,  # the demo's scenes
    "clustering": 2,
    "protocol": 2,  # how a champion was measured: raise it with evaluate's
}


class Output(NamedTuple):
    """Which output it is: its kind and its fingerprint."""

    kind: str
    fingerprint: str

    @property
    def prefix(self) -> str:
        """The folder of its objects in the store."""
        return f"{self.kind}/{self.fingerprint}"

    @property
    def manifest_key(self) -> str:
        return f"{self.prefix}/manifest.json"


class StoredObject(BaseModel):
    """Where an object is and what it must be: key in the store, bytes, sha256 in hex."""

    key: str
    size: int
    sha256: str


class Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    kind: str
    fingerprint: str
    objects: dict[str, StoredObject] = {}
    info: dict[str, Any] = {}

    @property
    def output(self) -> Output:
        return Output(self.kind, self.fingerprint)


class Contents(NamedTuple):
    """What an output holds: its objects by name, and facts about them."""

    objects: dict[str, StoredObject]
    info: dict[str, Any]


def fingerprint(kind: str, **parts: Any) -> str:
    """16 hex digits over a kind of `VERSIONS`, its version there, and the parts: settings and inputs' fingerprints."""
    plain = {name: part.model_dump() if isinstance(part, BaseModel) else part for name, part in parts.items()}
    text = json.dumps([SCHEMA_VERSION, kind, VERSIONS[kind], plain], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(store: Store, output: Output) -> Manifest | None:
    """The finished output, or None when it, or any of its objects, is not there in full."""
    if store.size(output.manifest_key) is None:
        return None
    try:
        manifest = Manifest.model_validate_json(store.get(output.manifest_key))
    except ValidationError:
        return None
    if manifest.schema_version != SCHEMA_VERSION:
        return None
    whole = all(store.size(item.key) == item.size for item in manifest.objects.values())
    return manifest if whole else None


def put_object(store: Store, key: str, data: bytes) -> StoredObject:
    store.put(key, data)
    return StoredObject(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def put_immutable(store: Store, stem: str, suffix: str, data: bytes) -> StoredObject:
    """Store data under a key that holds their hash, STEM-HASHSUFFIX: whoever writes it, it is never other bytes."""
    digest = hashlib.sha256(data).hexdigest()
    item = StoredObject(key=f"{stem}-{digest[:16]}{suffix}", size=len(data), sha256=digest)
    store.put(item.key, data)
    return item


def read_object(store: Store, item: StoredObject) -> bytes:
    """The object's bytes.

    Raises:
        StorageError: they are not those that were written.
    """
    data = store.get(item.key)
    if hashlib.sha256(data).hexdigest() != item.sha256:
        raise StorageError(
            f"the object {store.uri(item.key)} is damaged", f"sha256 {item.sha256}", "delete it and run again"
        )
    return data


def publish(store: Store, output: Output, contents: Contents) -> Manifest:
    """Write the manifest; only now is the output there."""
    manifest = Manifest(**output._asdict(), **contents._asdict())
    store.put(output.manifest_key, manifest.model_dump_json(indent=1).encode())
    return manifest


def make_once(
    store: Store,
    output: Output,
    make: Callable[[], Contents],
    look: Callable[[Store, Output], Manifest | None] = find,
) -> Manifest:
    """The output as it is found, or else made and published.

    Args:
        store: where it is or goes.
        output: which one.
        make: writes its objects.
        look: looks for it, such as `cliptea.data.shard_sets.find_sharded` for shards.
    """
    return look(store, output) or publish(store, output, make())
