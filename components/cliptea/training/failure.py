"""The file in which the first process that fails says why, for the one that has started them all.

torchrun ends with the code 1, whatever its processes end from. A failure of one's own counts more than partners that
have gone: those who were left may write first, and have a file of their own beside it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from cliptea import env, errors
from cliptea.errors import ClipteaError
from cliptea.training.stopping import Deserted, Stopped

__all__ = ["tell", "told"]


def tell(error: BaseException) -> None:
    """Leave the reason of a failure, unless another process has left one of its kind."""
    if not env.FAILURE.is_set():
        return
    file = Path(env.FAILURE.get())
    said: dict[str, Any] = {"kind": type(error).__name__, "text": _one_line(error)}
    if isinstance(error, Deserted):
        file, said["text"] = _of_those_left(file), error.why
    if isinstance(error, Stopped):
        said["iteration"] = error.iteration
    with suppress(FileExistsError), file.open("x", encoding="utf-8") as new:
        json.dump(said, new)


def told(failure: Path) -> Stopped | ClipteaError | None:
    """The failure that a file, or the one beside it, tells of, if any."""
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
    except (FileNotFoundError, ValueError):  # ValueError: a process was killed while it wrote
        return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ClipteaError) else f"{type(error).__name__}: {text}"
