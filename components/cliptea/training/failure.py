"""The file in which the first failed process stores its error for the process that started training.

torchrun exits with 1 for any failure of its processes. An error of a process itself takes precedence over the errors of
processes that lost their partners. The latter may come first, so they are stored in a second file next to it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from cliptea import env, errors
from cliptea.errors import ClipteaError, described
from cliptea.training.stopping import Deserted, Stopped

__all__ = ["tell", "told"]


def tell(error: BaseException) -> None:
    """Store an error, unless another process has already stored one of the same kind."""
    if not env.FAILURE.is_set():
        return
    file = Path(env.FAILURE.get())
    said: dict[str, Any] = {"kind": type(error).__name__, "text": described(error)}
    if isinstance(error, Deserted):
        file, said["text"] = _of_those_left(file), error.why
    if isinstance(error, Stopped):
        said["iteration"] = error.iteration
    with suppress(FileExistsError), file.open("x", encoding="utf-8") as new:
        json.dump(said, new)


def told(failure: Path) -> Stopped | ClipteaError | None:
    """The error that is stored in the file or in the second file next to it, or None."""
    said = _read(failure) or _read(_of_those_left(failure))
    if said is None:
        return None
    if said["kind"] == Stopped.__name__:
        return Stopped(said["iteration"])
    if said["kind"] == Deserted.__name__:
        return Deserted(said["text"])
    return getattr(errors, said["kind"], ClipteaError)(said["text"])


def _of_those_left(failure: Path) -> Path:
    return failure.with_suffix(".left")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: a process was killed while writing
        return None
