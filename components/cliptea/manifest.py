"""What a step leaves behind: objects in the store and one small manifest that names them.

A manifest is written last, so that what it names is whole. Its *fingerprint* is taken over everything that
decides the content: the step's version, its part of the config, and the fingerprints of its inputs. A step whose
manifest is there, with objects of the recorded sizes, is not made again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cliptea.errors import StorageError
from cliptea.storage import Store

__all__ = [
    "Manifest", "StoredObject", "find", "fingerprint", "publish", "put_immutable", "put_object", "read_object",
]  # fmt: skip

SCHEMA_VERSION = 1


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
    def key(self) -> str:
        return f"{self.kind}/{self.fingerprint}/manifest.json"


def fingerprint(kind: str, version: int, **parts: Any) -> str:
    """16 hex digits over the step's kind, its version (bumped by hand when its meaning changes) and its inputs."""
    plain = {name: part.model_dump() if isinstance(part, BaseModel) else part for name, part in parts.items()}
    text = json.dumps([SCHEMA_VERSION, kind, version, plain], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(store: Store, kind: str, fp: str) -> Manifest | None:
    """The finished output of that fingerprint, or None when it, or any of its objects, is not there in full."""
    key = f"{kind}/{fp}/manifest.json"
    if store.size(key) is None:
        return None
    try:
        manifest = Manifest.model_validate_json(store.get(key))
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


def publish(store: Store, manifest: Manifest) -> Manifest:
    """Write the manifest; only now is the output there."""
    store.put(manifest.key, manifest.model_dump_json(indent=1).encode())
    return manifest
