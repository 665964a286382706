"""The file in which the first process that fails says why, for the one that has started them all.

torchrun ends with the code 1, whatever its processes end from. A failure of one's own counts more than partners that
have gone: those who were left may write first.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cliptea import errors
from cliptea.errors import ClipteaError
from cliptea.training.stopping import Deserted, Stopped

__all__ = ["FAILURE", "tell", "told"]

FAILURE = "CLIPTEA_FAILURE"  # environment variable that names the file


def tell(error: BaseException) -> None:
    """Leave the reason of a failure, unless another process has left one that counts as much."""
    if FAILURE not in os.environ:
        return
    before = told(Path(os.environ[FAILURE]))
    if before is not None and (isinstance(error, Deserted) or not isinstance(before, Deserted)):
        return
    said: dict[str, Any] = {"kind": type(error).__name__, "text": _one_line(error)}
    if isinstance(error, Deserted):
        said["text"] = error.why
    if isinstance(error, Stopped):
        said["iteration"] = error.iteration
    Path(os.environ[FAILURE]).write_text(json.dumps(said), encoding="utf-8")


def told(failure: Path) -> Stopped | ClipteaError | None:
    """The failure that a file tells of, if any."""
    try:
        said: dict[str, Any] = json.loads(failure.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # ValueError: a process was killed while it wrote
        return None
    if said["kind"] == Stopped.__name__:
        return Stopped(said["iteration"])
    if said["kind"] == Deserted.__name__:
        return Deserted(said["text"])
    return getattr(errors, said["kind"], ClipteaError)(said["text"])


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ClipteaError) else f"{type(error).__name__}: {text}"
