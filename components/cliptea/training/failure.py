"""The file in which the first failed process stores its error for the process that started training.

torchrun exits with 1 for any failure of its processes. Some errors may be the consequence of another process's error:
an object is missing, because a process has deleted it as damaged, torchrun has killed a process, or the other processes
are gone. They may be stored before that error, so each of these kinds has a file of its own next to the first file, and
counts less.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from cliptea import env, errors
from cliptea.errors import ClipteaError, Missing, described
from cliptea.training.stopping import Deserted, Killed, Stopped

__all__ = ["reserve_room", "store_error", "stored_error"]

RESERVE, RESERVED = ".reserve", 1 << 16  # bytes

CONSEQUENCES = {Missing: ".missing", Killed: ".killed", Deserted: ".left"}
"""Suffixes of the files for errors that may be consequences, the more telling kind first."""


def reserve_room(failure: Path) -> None:
    """Take room on the disk for an error, which may be that the disk is full."""
    with suppress(OSError):
        failure.with_suffix(RESERVE).write_bytes(os.urandom(RESERVED))


def store_error(error: BaseException) -> None:
    """Store an error, unless another process has already stored one in the same file."""
    if not env.FAILURE.is_set():
        return
    file = Path(env.FAILURE.get())
    said: dict[str, Any] = {"kind": type(error).__name__, "text": described(error)}
    if isinstance(error, Deserted):
        said["text"] = error.why
    if isinstance(error, Stopped):
        said["iteration"] = error.iteration
    file = file.with_suffix(CONSEQUENCES.get(type(error), file.suffix))
    data = json.dumps(said).encode()
    try:
        with file.open("xb") as new:
            new.write(data)
    except FileExistsError:
        pass
    except OSError:  # the disk is full
        with suppress(OSError):
            file.with_suffix(RESERVE).unlink()
            file.write_bytes(data)


def stored_error(failure: Path) -> Stopped | ClipteaError | None:
    """The error that is stored in the file or in one of the files next to it, or None."""
    files = (failure, *map(failure.with_suffix, CONSEQUENCES.values()))
    said = next(filter(None, map(_read, files)), None)
    if said is None:
        return None
    if said["kind"] == Stopped.__name__:
        return Stopped(said["iteration"])
    if said["kind"] == Deserted.__name__:
        return Deserted(said["text"])
    return getattr(errors, said["kind"], ClipteaError)(said["text"])


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: a process was killed while writing
        return None
