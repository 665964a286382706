"""Checks files in the caches of the Hugging Face hub and of torch.hub, whose libraries only look at them on download.

The hub's cache names a file by its sha256 or, if it is not in LFS, by its hash in git; some mirrors of the hub give
the sha1 of all files instead. Files of torch.hub have the first digits of their sha256 in their names.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from cliptea import progress
from cliptea.errors import Unusable, refuse_system
from cliptea.files import oddity, sha256

__all__ = ["cached", "is_whole"]

SHA256 = re.compile(r"[0-9a-f]{64}")
SHA1 = re.compile(r"[0-9a-f]{40}")
TORCH = re.compile(r".*-([0-9a-f]{8,64})\.\w+")  # shorter numbers in such names are no hashes


def cached(repository: str, name: str, revision: str | None = None) -> Path | None:
    """The whole copy of a file of the hub in its cache, or None. For damaged ones, see `is_whole`.

    Raises:
        StorageError: it cannot be read, or a damaged one cannot be deleted.
    """
    found = try_to_load_from_cache(repository, name, revision=revision)
    return Path(found) if isinstance(found, str) and is_whole(Path(found)) else None


def is_whole(copy: Path) -> bool:
    """Whether a copy matches the hash in its name. If not, it is deleted, so that the library downloads it again.

    A copy whose name has no hash counts as whole. Of a link, only the link is deleted, unless it leads to a blob of the
    same cache.

    Raises:
        StorageError: it cannot be read, or a damaged one cannot be deleted.
    """
    real = copy.resolve()  # the names of files in the hub's cache are links
    try:
        hashed = real.stat()
        if odd := oddity(real):
            raise OSError(f"it is {odd}")
        if _matches(real):
            return True
        progress.note(f"the copy {copy} does not match the hash in its name, so it is damaged; it is downloaded again")
        home = real.parent.parent
        blob = real.parent.name == "blobs" and home in copy.parent.resolve().parents
        if not os.path.samestat(hashed, real.stat()):  # another process has downloaded it again
            return is_whole(copy)
        copy.unlink()
        if blob:  # and no file of somebody else to which the copy is a link
            real.unlink(missing_ok=True)
    except FileNotFoundError:  # another process has deleted it
        return False
    except OSError as error:
        refuse_system(error, f"cannot use the copy {copy}")
        raise Unusable(f"cannot use the copy {copy}: {error.strerror or error}", todo="delete it") from error
    return False


def _matches(file: Path) -> bool:
    if SHA256.fullmatch(file.name):
        return sha256(file) == file.name
    if SHA1.fullmatch(file.name):
        return file.name in (_sha1(file, b"blob %d\0" % file.stat().st_size), _sha1(file))
    named = TORCH.fullmatch(file.name)
    return named is None or sha256(file).startswith(named[1])


def _sha1(file: Path, before: bytes = b"") -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(before)).hexdigest()
