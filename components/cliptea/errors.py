"""Errors that a user can act on.

Every message is one line that says what happened, what was expected and what to do next. The command line
prints it without a traceback and exits with 2; a step prints it and fails.
"""

from __future__ import annotations

__all__ = ["ClipteaError", "ConfigError", "DataError", "ServerAway", "StorageError", "TeacherError"]


class ClipteaError(Exception):
    """Base of all errors that are the input's or the surroundings' fault, not the program's.

    Attributes:
        temporary: whether the same may succeed when it is tried again later, with nothing changed.
    """

    temporary = False

    def __init__(self, what: str, expected: str = "", todo: str = "") -> None:
        self.what, self.expected, self.todo = what, expected, todo
        parts = [what]
        if expected:
            parts.append(f"expected {expected}")
        if todo:
            parts.append(todo)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


class ConfigError(ClipteaError):
    """A setting is unknown, of the wrong type, or cannot be combined with another."""


class DataError(ClipteaError):
    """An image, a label map or a class list is not what the data set promises."""


class StorageError(ClipteaError):
    """The object store or the work directory cannot be read or written, or holds something damaged."""


class ServerAway(StorageError):
    """A server that is needed refuses connections, is unreachable or answers 5xx. It may come back."""

    temporary = True


class TeacherError(ClipteaError):
    """The CLIP teacher's weights or text features are missing or do not fit."""
