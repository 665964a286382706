"""Marks: a small file in each folder that cliptea has made, which says what the folder is for.

Only marked folders are written to and cleaned up. A folder with other files belongs to somebody else and is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cliptea import __version__, env
from cliptea.errors import ConfigError, StorageError
from cliptea.messages import printable
from cliptea.parse import read_text
from cliptea.storage.local_files import cache_folder, is_partial, make_folder, unusable, write_file

if TYPE_CHECKING:
    from cliptea.storage.base import Store

__all__ = [
    "MARK", "NEUTRAL", "PREDICTIONS", "WORKDIR", "add_facts", "claim", "claim_cache", "claim_remote", "read_mark",
    "read_remote_mark", "require_free", "require_remote_free",
]  # fmt: skip

MARK = "cliptea.json"
LARGEST_MARK = 1 << 20  # bytes
SHOWN = 3  # names in a message
WORKDIR = "work directory"  # the kind of the folder of a local run
PREDICTIONS = "folder of predictions"
NEUTRAL = frozenset(("lost+found", ".DS_Store", "Thumbs.db", "desktop.ini"))  # from systems, also in unused folders


def claim(folder: Path, kind: str, todo: str, known: Set[str] = frozenset(), **facts: Any) -> None:
    """Make the folder, or take an empty one, and mark it. Nothing happens if it has a mark of this kind.

    Processes can claim a folder at the same time, because the mark is the first file in it.

    Args:
        kind: what the folder is for, for example "work directory".
        todo: the advice if it is refused.
        known: names in a folder of this kind. A folder that only has such names, and folders with marks of their own,
            needs no mark to be accepted.
        facts: further facts for the mark.

    Raises:
        StorageError: the folder belongs to somebody else, or cannot be written.
    """
    make_folder(folder)
    require_free(folder, kind, todo, known)
    if not read_mark(folder):
        write_file(folder / MARK, _content(kind, **facts))


def require_free(folder: Path, kind: str, todo: str, known: Set[str] = frozenset()) -> None:
    """Check that `claim` would accept the folder, and change nothing. Arguments and errors as for `claim`.

    Incomplete files, which another process may be writing, and what the system puts into every folder do not count.
    """
    try:
        names = {name for name in os.listdir(folder) if name not in NEUTRAL and not is_partial(name)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise unusable(folder, error) from None
    mark = read_mark(folder)  # after the list: another process that claims the folder marks it first
    if mark.get("kind") == kind:
        return
    if mark:
        raise _refused(str(folder), mark, kind, todo)
    strange = sorted(name for name in names - known if not (known and read_mark(folder / name)))
    if strange:
        some = ", ".join(map(printable, strange[:SHOWN])) + " and others" * (len(strange) > SHOWN)
        raise _refused(str(folder), mark, kind, f"move {some} elsewhere, or {todo}" if known else todo)


def add_facts(folder: Path, **facts: Any) -> None:
    """Write further facts into the mark of a claimed folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    write_file(folder / MARK, json.dumps(read_mark(folder) | facts, indent=1).encode())


def _refused(folder: str, mark: dict[str, Any], kind: str, todo: str) -> StorageError:
    held = f"is a {mark['kind']} of cliptea" if mark else "holds files that are not from cliptea"
    return StorageError(f"the folder {folder} {held}", f"a folder that is new, empty, or already a {kind}", todo)


def _content(kind: str, **facts: Any) -> bytes:
    return json.dumps({"kind": kind, "version": __version__, **facts}, indent=1).encode()


def claim_remote(store: Store, kind: str, todo: str, **facts: Any) -> None:
    """The same as `claim` for a folder in S3, which is the root of `store`. A mark with other facts is replaced."""
    require_remote_free(store, kind, todo)
    if not {"kind": kind, **facts}.items() <= read_remote_mark(store).items():
        store.put(MARK, _content(kind, **facts))


def require_remote_free(store: Store, kind: str, todo: str) -> None:
    """Check that `claim_remote` would accept the folder, and change nothing.

    Raises:
        StorageError: the folder belongs to somebody else, or cannot be read.
    """
    if next(iter(store.entries("")), None) is None:
        return
    mark = read_remote_mark(store)
    if mark.get("kind") != kind:
        raise _refused(store.uri("").rstrip("/"), mark, kind, todo)


def claim_cache() -> Path:
    """Mark the cache folder and return it.

    Nothing may be written there before, because a folder with files but no mark is refused.

    Raises:
        Unusable: the folder cannot be marked, for example because the disk is full.
        StorageError: the folder belongs to somebody else.
    """
    folder, kind, todo = cache_folder(), "cache", f"set {env.CACHE.name} to another one"
    require_free(folder, kind, todo)  # before the folder is made
    claim(folder, kind, todo)
    return folder


def read_mark(folder: Path) -> dict[str, Any]:
    """The content of the folder's mark, or {} if it has none. A file of another origin is no mark."""
    try:
        return _parsed(read_text(folder / MARK, "the mark"))
    except ConfigError:
        return {}


def read_remote_mark(store: Store, folder: str = "") -> dict[str, Any]:
    """The same as `read_mark` for a folder of a store.

    Raises:
        StorageError: the store cannot be read.
    """
    key = f"{folder}/{MARK}".lstrip("/")
    entry = store.entry(key)
    return _parsed(store.get(key)) if entry and entry.size < LARGEST_MARK else {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        mark = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return mark if isinstance(mark, dict) and isinstance(mark.get("kind"), str) else {}
