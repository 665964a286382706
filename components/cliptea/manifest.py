"""The outputs of steps: objects in the store, and a small manifest that lists them.

A manifest is written last, so its objects are complete. Its *fingerprint* is a hash of everything that determines the
content: the version of its kind, its part of the config, and the fingerprints of its inputs. A manifest carries its own
sha256 and those of its objects. An output is reused if its manifest and all objects match these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cliptea import progress
from cliptea.errors import StorageError
from cliptea.sealed import Damaged, seal, unseal
from cliptea.storage import Store

__all__ = [
    "Contents", "Manifest", "Output", "Sha256", "StoredObject", "discarded", "find", "find_of", "find_whole",
    "fingerprint", "make_once", "publish", "put_immutable", "put_object", "read_object",
]  # fmt: skip

SCHEMA_VERSION = 1
SMALL = 1 << 20  # bytes

# The versions of everything that has a fingerprint. Increment a version when the same settings give another result.
# All outputs of that kind, and all outputs that depend on them, are then created again.
VERSIONS = {
    # outputs in the store
    "split": 4,
    "demo-teacher": 3,
    "tokens": 5,  # also for dense tokens, values and keys
    "regions": 3,
    "clip-time": 1,
    "text": 2,
    "initial": 1,  # models in train.init_from
    "train": 4,
    "evaluate": 3,
    "part": 1,  # the results of a part of a run
    "speed": 3,
    "compare": 8,
    # records in the store of what is logged to MLflow
    "data": 1,
    "evaluated": 3,
    "promote": 4,
    # keys that are compared, or that are part of other fingerprints
    "run": 1,
    "variant": 2,
    "world": 3,  # the demo's scenes
    "clustering": 3,
    "protocol": 3,  # how a champion was evaluated; increment it together with "evaluate"
}


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # in hex; may become the name of a file


class Output(NamedTuple):
    """An output, identified by its kind and its fingerprint."""

    kind: str
    fingerprint: str

    @property
    def prefix(self) -> str:
        """The folder of its objects in the store."""
        return f"{self.kind}/{self.fingerprint}"

    @property
    def manifest_key(self) -> str:
        return f"{self.prefix}/manifest.json"


def _inside(key: str) -> str:
    if "\0" in key or {"", ".", ".."} & {*key.split("/")}:
        raise ValueError("is not a key of an object in the store")
    return key


def _file_name(name: str) -> str:
    if "/" in _inside(name):
        raise ValueError("is not a file name")
    return name


class StoredObject(BaseModel):
    """An object with its key in the store, its size in bytes, and its sha256 in hex."""

    key: Annotated[str, AfterValidator(_inside)]
    size: int = Field(ge=0, le=1 << 60)
    sha256: Sha256


class Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    kind: str
    fingerprint: str
    objects: dict[Annotated[str, AfterValidator(_file_name)], StoredObject] = {}  # names may become files
    info: dict[str, Any] = {}
    inputs: dict[str, Sha256] = {}  # by name, the sha256 of inputs whose fingerprint does not determine every bit

    @property
    def output(self) -> Output:
        return Output(self.kind, self.fingerprint)


class Contents(NamedTuple):
    """The content of an output: its objects by name, facts about them, and inputs as in its manifest."""

    objects: dict[str, StoredObject]
    info: dict[str, Any]
    inputs: Mapping[str, str] = MappingProxyType({})


def fingerprint(kind: str, **parts: Any) -> str:
    """A hash (16 hex digits) of a kind in `VERSIONS`, its version, and `parts`: settings and fingerprints of inputs."""
    plain = {name: part.model_dump() if isinstance(part, BaseModel) else part for name, part in parts.items()}
    text = json.dumps([SCHEMA_VERSION, kind, VERSIONS[kind], plain], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find(store: Store, output: Output, *, read_all: bool = False) -> Manifest | None:
    """The manifest of the output, or None if the output or any of its objects is missing or damaged.

    Objects of up to `SMALL` bytes are compared with their sha256. Larger ones, such as weights, are compared with their
    size only; `read_object` checks them when they are used. Damage is reported in a note, because the output is then
    made again.

    Args:
        read_all: compare larger objects with their sha256 too.
    """
    if store.size(output.manifest_key) is None:
        return None
    try:
        manifest = unseal(store.get(output.manifest_key), Manifest)
    except Damaged as damaged:
        progress.note(f"{store.uri(output.manifest_key)} {damaged}; the output is made anew")
        return None
    except ValidationError:
        return None
    if manifest.schema_version != SCHEMA_VERSION or manifest.output != output:
        return None
    return manifest if all(_whole(store, item, read_all) for item in manifest.objects.values()) else None


find_whole = partial(find, read_all=True)


def _whole(store: Store, item: StoredObject, read_all: bool) -> bool:
    if store.size(item.key) != item.size:
        return False
    if item.size > SMALL and not read_all:
        return True
    if hashlib.sha256(store.get(item.key)).hexdigest() == item.sha256:
        return True
    progress.note(f"{store.uri(item.key)} is damaged: it does not match its sha256; the output is made anew")
    return False


def put_object(store: Store, key: str, data: bytes) -> StoredObject:
    """Store data under this key.

    Returns:
        The object with its size and sha256, for a manifest.

    Raises:
        StorageError: it cannot be written.
    """
    store.put(key, data)
    return StoredObject(key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def put_immutable(store: Store, stem: str, suffix: str, data: bytes) -> StoredObject:
    """Store data under the key STEM-HASHSUFFIX. The hash is that of the data, so a key always has the same content."""
    digest = hashlib.sha256(data).hexdigest()
    item = StoredObject(key=f"{stem}-{digest[:16]}{suffix}", size=len(data), sha256=digest)
    store.put(item.key, data)
    return item


def read_object(store: Store, item: StoredObject, *, keep: bool = False) -> bytes:
    """The content of an object. A damaged one is deleted, so that the next run makes its output anew.

    Args:
        keep: do not delete it.

    Raises:
        StorageError: the object is missing, or its content does not match its sha256 in two attempts.
    """
    wrong = []
    for _ in range(2):  # the first transfer may have failed
        data = store.get(item.key)
        found = hashlib.sha256(data).hexdigest()
        if found == item.sha256:
            return data
        wrong.append(found)
    what, expected = f"the object {store.uri(item.key)}", f"sha256 {item.sha256}"
    if keep:
        raise StorageError(f"{what} is damaged", expected, "run again to make it anew")
    if _made_anew(store, item):
        raise StorageError(f"{what} was made anew while it was in use", expected, "run again")
    raise discarded(store, item.key, wrong, what, expected)


def _made_anew(store: Store, item: StoredObject) -> bool:
    """Whether the manifest beside an object names another sha256 now, because another run has made the output anew."""
    kind, _, rest = item.key.partition("/")
    fp = rest.partition("/")[0]
    try:
        manifest = unseal(store.get(Output(kind, fp).manifest_key), Manifest)
    except (StorageError, Damaged, ValidationError):
        return False
    return any(one.key == item.key and one.sha256 != item.sha256 for one in manifest.objects.values())


def discarded(store: Store, key: str, contents: Sequence[object], what: str, expected: str) -> StorageError:
    """The error for a damaged object, which is deleted if possible: the next run reuses large objects by their size.

    Args:
        contents: what was read in each attempt. If it differs, the object is left, because a transfer is the cause.
    """
    if any(content != contents[0] for content in contents):
        todo = "check the network and the memory of this machine, and run again"
        return StorageError(f"{what} is damaged whenever it is read, but each time differently", expected, todo)
    try:
        store.delete(key)
    except StorageError:  # such as a missing permission
        return StorageError(f"{what} is damaged", expected, "delete it and run again")
    return StorageError(f"{what} is damaged, and was deleted", expected, "run again to make it anew")


def publish(store: Store, output: Output, contents: Contents) -> Manifest:
    """Write the manifest, which makes the output visible.

    Raises:
        NotFinite: a number in its facts is NaN or infinite.
    """
    made = {"objects": contents.objects, "info": contents.info, "inputs": dict(contents.inputs)}
    manifest = Manifest(**output._asdict(), **made)
    store.put(output.manifest_key, seal(manifest))
    return manifest


def find_of(inputs: Mapping[str, str], store: Store, output: Output) -> Manifest | None:
    """Like `find`, but None if the output was made of other inputs.

    A student that was deleted and trained again may have other weights, and then other scores.
    """
    found = find(store, output)
    return found if found is not None and found.inputs == inputs else None


def make_once(
    store: Store,
    output: Output,
    make: Callable[[], Contents],
    look: Callable[[Store, Output], Manifest | None] = find,
) -> tuple[Manifest, bool]:
    """Return the manifest of an existing output, or create and publish the output. Also whether it was created.

    Args:
        make: writes its objects.
        look: finds an existing output, such as `cliptea.data.shard_sets.find_sharded` for shards.
    """
    found = look(store, output)
    return (publish(store, output, make()), True) if found is None else (found, False)
