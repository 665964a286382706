"""What runs keep in a store, by the names of its objects, and the mark of a folder that is a store.

A work directory has its own mark, which also counts for the store in it.
"""

from __future__ import annotations

import re
from pathlib import Path

from cliptea import board, env
from cliptea.storage import FileStore, Store
from cliptea.storage.local_files import delete_partial_files
from cliptea.storage.marks import WORKDIR, claim, read_mark, require_free
from cliptea.teacher.outputs import SHARDS
from cliptea.tracking.deferred import DEFERRED, RECEIPTS
from cliptea.uses import LISTS

__all__ = [
    "OBJECT", "PROBE", "RECORD", "SCRATCH", "SHARDED", "SHIPPED", "STATUS", "claim_store", "delete_partial_objects",
    "require_free_store",
]  # fmt: skip

KIND = "store"  # in its mark
ADVICE = f"set {env.STORE.name} to another one"
DEAD_SECONDS = 86400.0  # a writer on another machine, whose lock may not be visible here, writes more often than that
PROBE = "doctor"  # folder of the objects that `cliptea doctor` writes and deletes
HASH = "[0-9a-f]{16}"
SHARD = r"(?:\d{5}/)?\d{5}-[0-9a-f]{16}(?:\.tar|\.index\.json)|index-[0-9a-f]{16}\.json"
SHARDED = {"split": "train|val", **SHARDS}  # kind -> shard sets
CLIP = r"open_clip_config\.json|open_clip_model\.safetensors"
# The names of all objects of an output, by its kind, complete or not.
NAMES = {
    **{kind: rf"(?:{sets})/(?:{SHARD})" for kind, sets in SHARDED.items()},
    "demo-teacher": CLIP,
    "text": rf"text(?:_seen)?(?:-{HASH})?\.safetensors",  # those of earlier versions have no hash
    "initial": r"model\.safetensors",
    "train": rf"model-{HASH}\.safetensors|history-{HASH}\.json|"
    r"checkpoints/\d{9}-[0-9a-f]{32}\.pt|inputs-[0-9a-f]{10}\.json",
    "evaluate": rf"figures-{HASH}\.npz|training_features-{HASH}\.safetensors",
    "part": rf"results-{HASH}\.json",
    "clip-time": r"(?!)",  # its manifest is all
    "speed": r"(?!)",
    "compare": r"report\.html|results\.json|shipped-[0-9a-f]{16}\.html",
}
SHIPPED = re.compile(r"compare/[0-9a-f]{16}/shipped-[0-9a-f]{16}\.html")  # is made when its output is complete
OBJECT = re.compile("|".join(rf"{kind}/[0-9a-f]{{16}}/(?:manifest\.json|{name})" for kind, name in NAMES.items()))
SCRATCH = re.compile(rf"scratch/(demo-teacher)-([0-9a-f]{{16}})(?:\.lock|/(?:{CLIP}|pretraining\.ckpt))")
RECORD = re.compile(rf"({RECEIPTS}|{DEFERRED}|{LISTS})/([\w-]+)/[\w-]+\.json")
STATUS = re.compile(rf"{board.FOLDER}/([\w.-]+)/[a-z]+-[0-9a-f]{{10}}/[a-z]+\.json")
# All folders of a store. Some versions of cliptea did not mark it.
FOLDERS = frozenset((*NAMES, "scratch", RECEIPTS, DEFERRED, LISTS, board.FOLDER, PROBE))


def claim_store(store: Store) -> None:
    """Mark a store that is a folder outside of a work directory. A run does so before it writes to the store.

    A folder without a mark is taken if it only has folders with names of ours.

    Raises:
        StorageError: the folder belongs to somebody else, or cannot be written.
    """
    if (folder := _outside(store)) is not None:
        claim(folder, KIND, ADVICE, FOLDERS)


def require_free_store(store: Store) -> None:
    """Check that `claim_store` would accept the store, and change nothing. Errors as for `claim_store`."""
    if (folder := _outside(store)) is not None:
        require_free(folder, KIND, ADVICE, FOLDERS)


def delete_partial_objects(store: Store) -> None:
    """Delete the incomplete files that killed processes have left in a folder with the mark of a store.

    Processes on other machines may use the folder. Some network file systems do not show their locks here, so files of
    the last day stay.
    """
    folder = _outside(store)
    if folder is not None and read_mark(folder).get("kind") == KIND:
        delete_partial_files(folder, DEAD_SECONDS)


def _outside(store: Store) -> Path | None:
    """The folder of a store, or None if the store is in S3 or in a work directory."""
    if not isinstance(store, FileStore):
        return None
    folder = store.root.resolve()
    return None if any(read_mark(above).get("kind") == WORKDIR for above in folder.parents) else folder
