"""What a path of somebody else leads to, whether it is a zip bomb, and the sha256 of files.

Named pipes and devices are never opened, because reading them may not end.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

__all__ = ["PIPE", "SUMS", "is_bomb", "oddity", "sha256", "sums", "unchanged"]

PIPE = "a named pipe"
SUMS = "SHA256SUMS"  # the file with the sha256 of the others in its folder, as sha256sum writes it
MOST_SAVED = 1 << 26  # bytes that compression may save in a file of weights: only its code is compressed
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
            return "a circular link"
        if isinstance(error, FileNotFoundError):
            return "a broken link" if os.path.islink(path) else "missing"
        return f"unreadable ({getattr(error, 'strerror', None) or error})"
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "not a file")


def is_bomb(path: Path) -> bool:
    """Whether a zip archive holds much more than its size, as no file of weights does.

    Raises:
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size + MOST_SAVED


def unchanged(path: Path, digests: Collection[str]) -> bool:
    """Whether there is a file with one of these sha256 in hex."""
    try:
        return sha256(path) in digests
    except OSError:
        return False


def sha256(path: Path) -> str:
    """The sha256 of a file in hex. A process reads a large file only once for it, unless the file changes.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    state = path.stat()
    if odd := oddity(path):
        raise OSError(f"it is {odd}")
    return _sha256(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(files: Mapping[str, bytes]) -> bytes:
    """The content of SHA256SUMS for files by name."""
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines).encode()
