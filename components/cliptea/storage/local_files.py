"""Local files: their addresses, atomic writes, locks, and the folders for downloads and unfinished work."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from cliptea import env, progress, watchdog
from cliptea.addresses import is_uri
from cliptea.errors import ConfigError, StorageError, Unusable
from cliptea.messages import meaning

__all__ = [
    "cache_folder", "delete_partial_files", "escaped_path", "is_partial", "local_path", "lock_file", "make_folder",
    "new_file", "open_lock", "partial_name", "unusable", "uri_path", "write_file",
]  # fmt: skip

PARTIAL = re.compile(r"\.partial-[0-9a-f]{32}")  # names of incomplete files; similar ones are the user's
LOOK_SECONDS = 0.2  # between two tries to get a lock
YOUNG = 60.0  # seconds in which a new incomplete file may not be locked yet


def local_path(name: str, given: str) -> Path:
    """The path that a user has given for a file or folder on this machine. "~" is the home folder, as in settings.

    Args:
        name: the option or variable, for the error.

    Raises:
        ConfigError: it is empty or a URI, or it begins with ~NAME and there is no such user.
    """
    if not given.strip():
        raise ConfigError(f"{name} is empty", "a path on this machine")
    if is_uri(given):
        raise ConfigError(f"{name} {given} is a URI", "a path on this machine", f"use a path such as {Path.cwd()}")
    if "\0" in given:
        raise ConfigError(f"{name} contains a NUL character", "a path on this machine")
    path = os.path.expanduser(given)  # pathlib's would also expand ./~
    if path.startswith("~"):
        raise ConfigError(
            f"{name} {given} begins with ~ and the name of a user who does not exist",
            "a path on this machine",
            f"use ./{given}",
        )
    return Path(path)


def uri_path(uri: str) -> Path:
    """The path of a file:///absolute/path URI.

    Raises:
        StorageError: it names no absolute path on this machine, or it contains a ? or # that is not escaped.
    """
    parsed = urlsplit(uri)
    shown = f"file://{parsed.path}"  # the other parts may be secrets
    if parsed.scheme != "file" or parsed.netloc not in ("", "localhost") or not parsed.path.startswith("/"):
        raise StorageError(f"cannot use the address {shown} of a file or folder", "file:///absolute/path")
    if set(uri) & set("?#"):
        raise StorageError(f"the address {shown} goes on with a ? or #", "%3F and %23 instead of them in a path")
    return Path(unquote(parsed.path))


def partial_name(digits: str = "") -> str:
    """A name for an incomplete file: with these 32 hexadecimal digits, or a new one."""
    return f".partial-{digits or uuid.uuid4().hex}"


def is_partial(name: str) -> bool:
    """Whether we give such names to incomplete files."""
    return PARTIAL.fullmatch(name) is not None


@contextmanager
def new_file(target: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which replaces `target` at the end of the block. After an error, it is deleted.

    A killed process leaves a file with a `partial_name`. It is no longer locked, so `delete_partial_files` deletes it.

    Args:
        durable: write the bytes to the disk before the name changes, so that a power cut leaves no empty file.

    Raises:
        StorageError: the file cannot be written.
    """
    make_folder(target.parent)
    try:
        name = target.with_name(partial_name())  # with the user's umask, for shared volumes
        try:
            with name.open("xb") as file:
                _try_lock(file.fileno())
                yield file
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            name.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unusable(target, error) from None


def write_file(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file at once; arguments and errors as for `new_file`."""
    with new_file(target, durable=durable) as file:
        file.write(data)


def make_folder(path: Path) -> Path:
    """Create the folder `path` and those above it, if they do not exist, and return it.

    Raises:
        Unusable: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from None
    return path


@contextmanager
def lock_file(file: Path, does: str) -> Iterator[None]:
    """Hold the lock of a file that only exists for it, and wait if another process holds it.

    The file is made if needed, and deleted at the end. A folder would not do, as NFS only locks what is open for
    writing.

    Args:
        does: what that process does, for the note about the waiting.

    Raises:
        StorageError: the file cannot be made.
    """
    handle = _open_locked(file, does)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)  # those who wait for it see that, and make a new one
        os.close(handle)


def _open_locked(file: Path, does: str) -> int:
    while True:
        try:
            handle = open_lock(file)
        except OSError as error:
            raise unusable(file, error) from None
        try:
            _wait_for_lock(handle, does)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        except FileNotFoundError:  # the process before this one has deleted it
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def open_lock(file: Path) -> int:
    """Open the file of a lock, which is made if needed. A link is not followed, because its target may be anybody's.

    Raises:
        StorageError: it is a link.
        OSError: it cannot be opened or made.
    """
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise StorageError(
            f"the lock {file} is a link", "a file", "delete the link, which cliptea has not made"
        ) from None


def _wait_for_lock(handle: int, does: str) -> None:
    """Lock an open file. The wait is reported once, and the watchdog does not take it for a halt."""
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                progress.note(f"waiting for another process that {does}")
            told = True
            watchdog.alive()
            time.sleep(LOOK_SECONDS)
        except OSError:  # a file system without locks
            return
        else:
            return


def delete_partial_files(folder: Path, seconds: float = YOUNG) -> None:
    """Delete the incomplete files below the folder that killed processes have left. Links are not followed.

    Only call it for a folder that carries our mark, or lies in one.

    Args:
        seconds: files that were written to in this time stay, even if no process holds their lock.
    """
    for here, _, files in os.walk(folder):
        for name in files:
            if is_partial(name):
                with suppress(OSError):
                    _drop_dead(Path(here) / name, seconds)


def _drop_dead(file: Path, seconds: float) -> None:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(file, os.O_RDWR | flags)  # NFS only locks what is open for writing
    except PermissionError:
        handle = os.open(file, os.O_RDONLY | flags)
    try:
        if time.time() - os.fstat(handle).st_mtime > seconds and _try_lock(handle):
            file.unlink()
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file unless another process holds its lock. Returns whether it is locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def cache_folder() -> Path:
    """The folder for downloads and scratch folders: CLIPTEA_CACHE, or cliptea in the user's cache folder.

    Raises:
        ConfigError: CLIPTEA_CACHE is not a path on this machine.
        StorageError: this user has no home folder.
    """
    named = env.CACHE.get()
    if named:
        return local_path(env.CACHE.name, named)
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "cliptea"  # as its specification says
    except RuntimeError:
        raise StorageError("this user has no home folder", todo="set CLIPTEA_CACHE to a folder to cache in") from None


def escaped_path(*names: str) -> Path:
    """A relative path from the segments of `names`. It stays inside its folder, as ".", ".." and "" are escaped."""
    return Path(*(part if part.strip(".") else f"%{part}" for name in names for part in name.split("/")))


def unusable(path: Path, error: OSError) -> Unusable:
    """The error for a file or folder that cannot be read or written, with its cause and what to do."""
    what, todo = meaning(error) or (error.strerror or str(error), "")
    return Unusable(f"cannot use {path}: {what}", "a folder that can be written, with space left", todo)
