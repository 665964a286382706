"""Errors that a user can act on.

Every message is one line that says what happened, what was expected and what to do next. The command line prints it
without a traceback and exits with 2 for a `ConfigError` and 1 for the others; a step prints it and fails.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cliptea.messages import LONGEST, meaning, plain, shortened

__all__ = [
    "ClipteaError", "ConfigError", "DataError", "Missing", "NotFinite", "ServerAway", "StorageError", "TeacherError",
    "TrackingError", "Unusable", "described", "named", "one_line", "portable", "refuse_system",
]  # fmt: skip


class ClipteaError(Exception):
    """Base class of errors that are caused by the input or the environment, and not by the program."""

    temporary = False  # whether a retry may succeed later without any change

    def __init__(self, what: str, expected: str = "", todo: str = "") -> None:
        what = _line(what)
        self.what, self.expected, self.todo = what, expected, todo
        parts = [what]
        if expected:
            parts.append(f"expected {expected}")
        if todo:
            parts.append(todo)
        super().__init__(plain("; ".join(" ".join(part.split()) for part in parts)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled with all its parts, so that it is the same error in another process, whatever its class takes."""
        return _remade, (type(self), self.args, self.__dict__)

    @property
    def advice(self) -> str:
        """What was expected, and what to do."""
        return "; ".join(filter(None, (self.expected, self.todo)))


def _remade(kind: type[ClipteaError], args: tuple[str, ...], parts: dict[str, Any]) -> ClipteaError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(parts)
    return error


class ConfigError(ClipteaError):
    """A setting does not exist, has the wrong type, or cannot be combined with another one."""


class DataError(ClipteaError):
    """An image, a label map or a class list does not match the definition of its data set."""


class StorageError(ClipteaError):
    """The object store or the work directory cannot be read or written, or contains damaged data."""


class ServerAway(StorageError):
    """A required server refuses connections, is unreachable or answers 5xx. It may come back."""

    temporary = True


class Missing(StorageError):
    """An object does not exist. Another process may have deleted it because it is damaged."""


class Unusable(StorageError):
    """The system cannot read or write a file or folder, which says nothing about what is in it."""


class TrackingError(StorageError):
    """MLflow cannot do what is asked, or lacks what is needed."""


class TeacherError(ClipteaError):
    """The CLIP teacher's weights or text features are missing or do not fit."""


class NotFinite(ClipteaError):
    """A loss, weight, feature, logit or score is NaN or infinite."""


def _line(text: str) -> str:
    """One line of at most `LONGEST` characters, without secrets, also of a much longer text."""
    return shortened(plain(" ".join(shortened(text, 4 * LONGEST).split())))


@contextmanager
def named(what: str) -> Iterator[None]:
    """Let every `NotFinite` of the block begin with `what` it is about, such as the label of a variant."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(f"{what}: {error.what}", error.expected, error.todo) from None


def one_line(error: BaseException) -> str:
    """The text of any error without line breaks and secrets."""
    return _line(str(error))


def described(error: BaseException) -> str:
    """Any error in one line: its text and, unless it is a `ClipteaError`, its type and what it means, if known."""
    if isinstance(error, ClipteaError):
        return str(error)
    said, known = _said(error), meaning(error)
    return f"{known[0]} ({said}); {known[1]}" if known else said


def _said(error: BaseException) -> str:
    kind, text = type(error).__name__, one_line(error)
    return f"{kind}: {text}" if text else kind


def refuse_system(error: BaseException, what: str, todo: str = "") -> None:
    """Raise `Unusable` if the system is to blame for an error, so that nobody takes it for damage of a file.

    Args:
        what: what has failed, such as "cannot read model.pt".
        todo: another solution.
    """
    if known := meaning(error):
        said = shortened(_said(error), 400)  # an error of the system names the file
        raise Unusable(f"{what}: {known[0]} ({said})", todo="; or ".join(filter(None, (known[1], todo)))) from error


def portable(error: Exception) -> Exception:
    """The error as one process can hand it to another: with its traceback as a note, or as text if it has no pickle."""
    trace = "".join(traceback.format_exception(error))
    try:
        error = pickle.loads(pickle.dumps(error))  # some errors only fail when they are read
    except Exception:  # errors of libraries may hold anything
        error = RuntimeError(described(error))
    if not isinstance(error, ClipteaError):
        error.add_note(f"In another process:\n{trace}")
    return error
