"""What a path of somebody else leads to, and the sha256 of a file.

Named pipes and devices are never opened, because reading them may not end.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from functools import cache
from pathlib import Path

__all__ = ["PIPE", "oddity", "sha256"]

PIPE = "a named pipe"
KINDS = {
    stat.S_IFIFO: PIPE,
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def oddity(path: Path | str) -> str:
    """What is at a path instead of a file, such as "a named pipe", or "" for a file. Links are followed."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            return "a link without end"
        if isinstance(error, FileNotFoundError):
            return "a link to nothing" if os.path.islink(path) else "missing"
        return f"unreadable ({getattr(error, 'strerror', None) or error})"
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


def sha256(path: Path) -> str:
    """The sha256 of a file in hex. A process reads a large file only once for it, unless the file changes.

    Raises:
        OSError: the file cannot be read.
    """
    state = path.stat()
    return _sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
