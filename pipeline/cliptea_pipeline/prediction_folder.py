"""The folder that `cliptea predict` writes to, on this machine or in S3: who may use it, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cliptea.errors import ConfigError, StorageError
from cliptea.storage import FileStore, Store, is_remote, open_store
from cliptea.storage.local_files import delete_partial_files, local_path
from cliptea.storage.marks import (
    PREDICTIONS,
    add_facts,
    claim,
    claim_remote,
    read_remote_mark,
    require_free,
    require_remote_free,
)

if TYPE_CHECKING:
    from cliptea.serving.predict import Put

__all__ = ["claim_folder", "free_folder", "require_same_classes"]

CLASSES = "classes"  # in its mark
ADVICE = "choose another one with -o"


def free_folder(given: str) -> Path | Store:
    """The folder that `claim_folder` would accept. Nothing is changed.

    Raises:
        ConfigError: it is a file, or an address that is not in S3.
        StorageError: it belongs to somebody else, or cannot be read.
    """
    if is_remote(given):
        store = open_store(given)
        require_remote_free(store, PREDICTIONS, ADVICE)
        return store
    folder = local_path("-o", given)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"-o {folder} is a file", "a folder for the results")
    require_free(folder, PREDICTIONS, ADVICE)
    return folder


def require_same_classes(given: str, folder: Path | Store, names: Sequence[str]) -> None:
    """Check that earlier masks in the folder have the same classes, whose positions are the values of their pixels.

    The mark names them, because it is there before the first mask.

    Args:
        given: the folder as the user named it.

    Raises:
        ConfigError: they have others.
        StorageError: the folder cannot be read.
    """
    from cliptea.serving.photos import MASKS
    from cliptea.serving.predict import AREAS

    store = FileStore(folder) if isinstance(folder, Path) else folder
    if next(iter(store.entries(MASKS)), None) is None:
        return
    earlier = read_remote_mark(store).get(CLASSES)
    if earlier is None:  # the mark of an earlier version
        with suppress(StorageError, ValueError, KeyError, TypeError, RecursionError):
            earlier = json.loads(store.get(AREAS))[CLASSES]
    if earlier != [*names]:
        raise ConfigError(f"-o {given} has masks of other classes", "a folder for each list of classes", ADVICE)


def claim_folder(folder: Path | Store, names: Sequence[str]) -> Put:
    """Mark the folder, with the names of its classes. Returns what writes into it.

    Raises:
        StorageError: it belongs to somebody else, or cannot be written.
    """
    if not isinstance(folder, Path):
        claim_remote(folder, PREDICTIONS, ADVICE, **{CLASSES: [*names]})
        return folder.put
    from cliptea.serving.predict import into

    claim(folder, PREDICTIONS, ADVICE)
    add_facts(folder, **{CLASSES: [*names]})
    delete_partial_files(folder)
    return into(folder)
