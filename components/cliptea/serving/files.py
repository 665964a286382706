"""Files for the user: whole or not there, and readable as any file that the user makes."""

from __future__ import annotations

import os
from pathlib import Path

from cliptea.storage.files import PARTIAL, make_folder, unusable

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` under another name, which then becomes `path`.

    Raises:
        StorageError: it cannot be written.
    """
    make_folder(path.parent)
    draft = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")  # not the store's temporary file: it is private
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as error:
        raise unusable(path, error) from None
    finally:
        draft.unlink(missing_ok=True)
