"""The temporary folder of a local run, which the next run deletes if the run is killed."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from cliptea.errors import ConfigError, StorageError
from cliptea.messages import meaning
from cliptea.parse import read_text, require_utf8
from cliptea.storage.marks import claim, read_mark

__all__ = ["drop_temporary", "make_temporary"]

KIND = "temporary folder"  # in its mark
REMEDY = "set TMPDIR to a folder with free space"


def make_temporary(present: Path) -> Path:
    """A new temporary folder with a mark that names the run's folder, which in turn names it.

    Raises:
        StorageError: it cannot be made, for example because the disk of TMPDIR is full.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="cliptea-"))
    except OSError as error:
        what = (meaning(error) or (error.strerror or str(error), ""))[0]
        raise StorageError(f"cannot make a temporary folder: {what}", todo=REMEDY) from None
    try:
        require_utf8(str(folder), "the path in TMPDIR")
        claim(folder, KIND, "", run=str(present))
        (present / "temporary").write_text(str(folder))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, StorageError):
            raise StorageError(error.what, error.expected, REMEDY) from None
        raise
    return folder


def drop_temporary(present: Path) -> None:
    """Delete the temporary folder of a killed run. The folder's own mark must say that it is from this run."""
    with suppress(OSError, ValueError, ConfigError):
        folder = Path(read_text(present / "temporary", "the file").decode())
        mark = read_mark(folder)
        if mark.get("kind") == KIND and mark.get("run") == str(present) and folder.name.startswith("cliptea-"):
            shutil.rmtree(folder, ignore_errors=True)
