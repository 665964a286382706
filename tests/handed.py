"""What an earlier step handed on, as the input artifact of a step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

from pydantic import BaseModel

from cliptea.sealed import seal


def artifact(model: BaseModel) -> SimpleNamespace:
    """An artifact with path and URI, as `cliptea.steps.common.read` takes it."""
    handle, name = tempfile.mkstemp(suffix=".json")
    os.close(handle)
    Path(name).write_bytes(seal(model))
    return SimpleNamespace(path=name, uri=Path(name).as_uri())
