"""Files that a command may replace: only those that the same command has written."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable
from pathlib import Path

from cliptea.errors import ConfigError, StorageError
from cliptea.files import oddity

__all__ = ["require_link", "require_own", "starts_with"]


def require_own(file: Path, is_own: Callable[[Path], bool], what: str) -> None:
    """Check that a file can be written without the loss of somebody else's.

    Args:
        is_own: whether an existing file is from an earlier call. It is not asked about named pipes and devices.
        what: the command's files, for the error.

    Raises:
        ConfigError: the file exists and is something else.
    """
    if file.exists() and (oddity(file) or not is_own(file)):
        raise ConfigError(f"{file} exists and is not {what}", "a new file name", "change it with -o")


def require_link(folder: Path, name: str, files: str) -> None:
    """Check that nothing in a work directory has the name of a link, except a link to one of `files` or a copy of one.

    Args:
        files: the files that it may lead to, as a pattern of relative paths.

    Raises:
        StorageError: it is something else, which a user has put there.
    """
    link = folder / name
    if (link.is_symlink() and Path(os.readlink(link)).match(files)) or not os.path.lexists(link):
        return
    if oddity(link) or not any(filecmp.cmp(link, file, shallow=False) for file in folder.glob(files)):
        raise StorageError(
            f"{link} is not from cliptea, which keeps a file of that name there",
            todo="move it elsewhere, or choose another work directory with --workdir",
        )


def starts_with(mark: bytes, within: int) -> Callable[[Path], bool]:
    """Whether a file has the mark among its first `within` bytes. A file that cannot be read has none."""

    def has(file: Path) -> bool:
        try:
            with file.open("rb") as opened:
                return mark in opened.read(within)
        except OSError:
            return False

    return has
