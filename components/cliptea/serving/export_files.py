"""The files of an export: the network, and a .json file with the facts, which lists the sha256 of the others.

Needs no torch, so that the command line refuses a file at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cliptea.errors import ConfigError
from cliptea.parse import read_text
from cliptea.storage.local_files import new_file, write_file

__all__ = ["exported_files", "write_export"]

FACTS = ".json"
LARGEST_FACTS = 64 << 20  # bytes; they may hold the embeddings of classes
EXPORTED = frozenset(("inputs", "output", "steps", "classes", "files"))  # keys that the facts of every export have
UNFINISHED = frozenset(("unfinished_export", "files"))  # keys of the file that stands for them while files are replaced


def exported_files(facts: Path) -> dict[str, list[Any]] | None:
    """The sha256 by name of the files that an export has written beside its facts. None if there is no export.

    A file has one hash, or several if an export was interrupted.
    """
    try:
        told = json.loads(read_text(facts, "the file", LARGEST_FACTS))
        if not ({*told} >= EXPORTED or {*told} == UNFINISHED):
            return None
        files = told["files"]
        return {name: found if isinstance(found, list) else [found] for name, found in files.items()}
    except (ConfigError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def write_export(file: Path, contents: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
    """Write the files of an export, and the facts about them with their sha256.

    A full disk leaves the earlier export as it is. The facts never describe another network, also if the command is
    killed: while the files are replaced, the .json file only has the old and the new hashes, so that the next export
    may replace each of these files.

    Args:
        file: the main file; the others have its name with other suffixes.
        contents: the files but the one with the facts, by suffix.

    Raises:
        StorageError: a file cannot be written.
    """
    told = file.with_suffix(FACTS)
    hashes = {file.with_suffix(suffix).name: hashlib.sha256(data).hexdigest() for suffix, data in contents.items()}
    earlier = exported_files(told) or {}
    both = {name: [*earlier.get(name, []), new] for name, new in hashes.items()}
    files = {FACTS: json.dumps({**facts, "files": hashes}, ensure_ascii=False).encode(), **contents}
    with ExitStack() as all_written:  # the files get their names at its end, in reverse order: the facts last
        for suffix, data in files.items():
            stream = all_written.enter_context(new_file(file.with_suffix(suffix)))
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        write_file(told, json.dumps({"unfinished_export": True, "files": both}).encode())
