"""Local access to files and folders in settings, which are given by a path, a file:// or an s3:// URI.

Files in S3 are downloaded once to the cache folder, under their bucket, key and version, and stay there, because the
libraries that read them need a path. Beside each copy is its sha256, with which every process compares it once. For
parts of shards there is `cliptea.data.shard_cache`, which has a limit.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cliptea import progress
from cliptea.addresses import PLACES, names_place
from cliptea.errors import StorageError
from cliptea.files import oddity, sha256
from cliptea.storage.base import Entry, Store
from cliptea.storage.file_store import FileStore
from cliptea.storage.local_files import delete_partial_files, escaped_path, unusable, uri_path, write_file
from cliptea.storage.marks import claim_cache

if TYPE_CHECKING:
    from cliptea.storage.s3_store import S3Store

__all__ = ["fetch", "is_remote", "read_small", "read_uri", "state"]


def is_remote(uri: str) -> bool:
    """Whether `uri` is in S3 and not on this machine."""
    return uri.startswith("s3://")


def fetch(uri: str) -> Path:
    """The local path of a file or folder. It is downloaded from S3 unless this version is in the cache, undamaged.

    Raises:
        StorageError: the file or folder does not exist or cannot be read.
    """
    store, key = _locate(uri)
    if isinstance(store, FileStore):
        path = store.path(key)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise _absent(uri) from None
        except OSError as error:
            raise unusable(path, error) from None
        return path
    found = _found(store, key, uri)
    folder = claim_cache() / "s3" / escaped_path(store.bucket, key, _version(found, key))
    with suppress(OSError):  # it does not exist yet, or is somebody else's to write
        os.utime(folder)  # `cliptea clean` deletes what was not used for long
    delete_partial_files(folder)
    for name, entry in found:
        target = folder / escaped_path(name)
        if not _is_whole(target, entry.size):
            store.download(entry, target)
            write_file(_sum_file(target), sha256(target).encode())
    return folder / escaped_path(found[0][0]) if found[0][1].key == key else folder


def read_small(uri: str, most: int) -> bytes:
    """The content of a file of at most `most` bytes. It is not cached.

    Raises:
        StorageError: the file does not exist, cannot be read, is a folder or is larger.
    """
    store, key = _locate(uri)
    entry = store.entry(key) if key else None
    if entry is None:
        if next(iter(store.entries(key)), None) is None:
            raise _absent(uri)
        raise StorageError(f"{uri} is a folder", "the address of a file")
    if entry.size > most:
        raise StorageError(f"{uri} has {entry.size} bytes", f"a file of at most {most} bytes")
    return store.get(key, length=entry.size)


def read_uri(uri: str, sha256: str) -> bytes:
    """The content of a file. It is not cached.

    Raises:
        StorageError: the file does not exist, cannot be read, or does not match its sha256 (in hex).
    """
    store, key = _locate(uri)
    data = store.get(key)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StorageError(f"the object {uri} is damaged", f"sha256 {sha256}", "run again to make it anew")
    return data


def state(uri: str) -> tuple[str, int, str]:
    """Name, size in bytes and version (etag, or modification time in ns) of a file or folder, without reading it.

    Raises:
        StorageError: the file or folder does not exist.
    """
    store, key = _locate(uri)
    found = _found(store, key, uri)
    return key.rpartition("/")[2], sum(entry.size for _, entry in found), _version(found, key)


def _locate(uri: str) -> tuple[FileStore | S3Store, str]:
    if is_remote(uri):
        from cliptea.storage.s3_store import S3Store, parse

        bucket, key = parse(uri)
        return S3Store(bucket), key
    if not names_place(uri):
        raise StorageError(f"{uri} is no address that cliptea can read", PLACES)
    path = uri_path(uri) if uri.startswith("file:/") else Path(os.path.expanduser(uri))
    path = path.absolute()
    return FileStore(path.parent), path.name


def _found(store: Store, key: str, uri: str) -> list[tuple[str, Entry]]:
    """The file `key` with its name, or all files in the folder `key` with their paths in the folder."""
    entry = store.entry(key) if key else None
    if entry:
        return [(entry.key.rpartition("/")[2], entry)]
    found = [(entry.key.removeprefix(f"{key}/"), entry) for entry in store.entries(key)]
    if not found:
        raise _absent(uri)
    return found


def _sum_file(copy: Path) -> Path:
    """The file with the sha256 of a copy in the cache. No reader of a folder takes it for one of its own files."""
    digest = hashlib.sha256(os.fsencode(copy.name)).hexdigest()  # the name itself may be as long as a name can be
    return copy.with_name(f".{digest[:32]}.cliptea-sha256")


def _is_whole(copy: Path, size: int) -> bool:
    """Whether a copy is in the cache as it was downloaded. Damage is reported."""
    kept = _sum_file(copy)
    odd = oddity(kept) or oddity(copy)  # opening a named pipe would wait forever
    if odd == "missing":  # it was never downloaded completely
        return False
    try:
        if not odd and copy.stat().st_size == size and sha256(copy).encode() == kept.read_bytes():
            return True
    except FileNotFoundError:  # `cliptea clean` has just deleted it
        return False
    except OSError as error:
        raise unusable(copy, error) from None
    why = f"or its sha256 is {odd}" if odd else "does not match its sha256, so it is damaged"
    progress.note(f"the copy {copy} {why}; it is downloaded again")
    return False


def _absent(uri: str) -> StorageError:
    return StorageError(f"the file or folder {uri} does not exist", todo="check its name")


def _version(found: list[tuple[str, Entry]], key: str) -> str:
    if found[0][1].key == key:
        return found[0][1].version
    lines = (f"{name}\0{entry.size}\0{entry.version}\n" for name, entry in found)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]
