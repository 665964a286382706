"""Files that a command may replace: only those that the same command has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cliptea.errors import ConfigError

__all__ = ["require_own", "starts_with"]


def require_own(file: Path, is_own: Callable[[Path], bool], what: str) -> None:
    """Check that a file can be written without the loss of somebody else's.

    Args:
        is_own: whether an existing file is from an earlier call.
        what: the command's files, for the error.

    Raises:
        ConfigError: the file exists and is something else.
    """
    if file.exists() and not is_own(file):
        raise ConfigError(f"{file} exists and is not {what}", "a new file name", "change it with -o")


def starts_with(mark: bytes, within: int) -> Callable[[Path], bool]:
    """Whether a file has the mark among its first `within` bytes. A file that cannot be read has none."""

    def has(file: Path) -> bool:
        try:
            with file.open("rb") as opened:
                return mark in opened.read(within)
        except OSError:
            return False

    return has
