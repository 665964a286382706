"""Finds and reads photos, in files and folders on this machine and in S3."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cliptea import progress
from cliptea.addresses import is_uri
from cliptea.data.left_out import LeftOut, count, left_out_lines
from cliptea.data.sample import LARGEST_FILE, SUFFIXES, decode_image
from cliptea.errors import DataError
from cliptea.files import oddity
from cliptea.serving.standalone import output_name
from cliptea.storage import Store, is_remote, open_store
from cliptea.storage.local_files import escaped_path
from cliptea.storage.marks import MARK, PREDICTIONS, read_mark, read_remote_mark

__all__ = [
    "CONFIDENCE", "MASKS", "OVERLAYS", "Found", "Photo", "Source", "StoredPhoto", "find_images", "read_image",
]  # fmt: skip

MASKS, OVERLAYS, CONFIDENCE = RESULTS = "masks", "overlays", "confidence"  # in a folder of predictions
EARLIER = "the result of an earlier prediction"


@dataclass(frozen=True)
class StoredPhoto:
    """An image file in S3."""

    uri: str
    size: int  # bytes
    key: str = field(compare=False)
    store: Store = field(compare=False)

    def __str__(self) -> str:
        return self.uri


Photo = Path | StoredPhoto


class Source(NamedTuple):
    """An image file, and the name of its outputs: a path without suffix that is unique among all sources."""

    path: Photo
    name: str


class Found(NamedTuple):
    """Image files, and what else is in their folders, by the reason why it is left out."""

    sources: list[Source]
    left_out: dict[str, LeftOut]


def find_images(given: Sequence[str | Path], leave_out: str | Path) -> Found:
    """The given files, and all images in the given folders and their subfolders. An s3:// address may be either.

    What else is in the folders is reported in one line for each reason. Subfolders that cannot be read are returned, so
    that `read_image` rejects them, and so are named pipes, devices and broken links with the suffix of an image.

    Args:
        leave_out: a folder with results, which is not searched. Those in other folders of predictions are left out.

    Raises:
        DataError: a folder contains no images, or a path is empty, does not exist or cannot be read.
        StorageError: S3 cannot be read.
    """
    left: dict[str, list[str]] = defaultdict(list)
    try:
        found = _search(given, leave_out, left)
    finally:  # also where there are no images but files of other kinds
        left_out = count(left)
        for line in left_out_lines(left_out):
            progress.note(line)
    taken: dict[str, Photo] = {}
    for file, relative in found:
        taken.setdefault(output_name(file, relative, taken), file)
    return Found([Source(file, name) for name, file in taken.items()], left_out)


def _search(given: Sequence[str | Path], leave_out: str | Path, left: dict[str, list[str]]) -> list[tuple[Photo, Path]]:
    """All photos with the paths for their names. What else there is is added to `left`, by the reason."""
    found: list[tuple[Photo, Path]] = []
    for one in given:
        if not str(one).strip():
            raise DataError("the name of an image is empty", "an image, or a folder of images", "use . for this folder")
        if is_remote(str(one)):
            found += _stored(str(one), str(leave_out).rstrip("/"), left)
            continue
        if isinstance(one, str) and is_uri(one):
            raise DataError(f"{one} is not an address of images", "a path on this machine or s3://BUCKET/FOLDER")
        path = Path(one)
        try:
            path.stat()
            searched = path.is_dir()
            if searched:
                os.scandir(path).close()
        except FileNotFoundError:
            raise DataError(f"the file or folder {path} does not exist") from None
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror or error})") from None
        if not searched:
            found.append((path, Path(path.name)))
            continue
        inside = [(file, file.relative_to(path)) for file in _below(path, Path(leave_out).resolve(), left)]
        if not inside:
            raise _no_images(path)
        found += inside
    return found


def read_image(path: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a photo, as `decode_image` returns it.

    Raises:
        DataError: the file is not readable, truncated, or too large to be a photo.
        StorageError: S3 cannot be read.
    """
    if isinstance(path, StoredPhoto):
        _require_photo(path, path.size)
        return decode_image(path.store.get(path.key), str(path))
    try:
        if path.is_dir():
            os.scandir(path).close()
        if odd := oddity(path):  # opening a named pipe would wait forever
            raise DataError(f"cannot read {path}: it is {odd}", "a file")
        _require_photo(path, path.stat().st_size)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error})") from None
    return decode_image(data, str(path))


def _require_photo(path: Photo, size: int) -> None:
    if size > LARGEST_FILE:
        raise DataError(f"{path} has {size} bytes", f"a photo of at most {LARGEST_FILE} bytes")


def _stored(uri: str, leave_out: str, left: dict[str, list[str]]) -> list[tuple[Photo, Path]]:
    """The photo, or all photos in the folder, with the paths for their names. What else there is is added to `left`."""
    store, uri = open_store(uri), uri.rstrip("/")
    folder, _, name = uri.rpartition("/")
    single = open_store(folder).entry(name) if folder != "s3:/" else None  # the address of a bucket has no name
    store = open_store(folder) if single else store
    entries = [single] if single else list(store.entries(""))
    folders = [entry.key.rpartition("/")[0] for entry in entries if entry.key.rpartition("/")[2] == MARK]
    marked = {one for one in folders if read_remote_mark(store, one).get("kind") == PREDICTIONS}
    found: list[tuple[Photo, Path]] = []
    some = False
    for entry in entries:
        some, where = True, store.uri(entry.key)
        if where.startswith(f"{leave_out}/") or entry.key.rpartition("/")[2] == MARK:
            continue
        names = entry.key.split("/")
        earlier = any(name in RESULTS and "/".join(names[:at]) in marked for at, name in enumerate(names[:-1]))
        if not single and (why := EARLIER if earlier else _left_out(names)):
            left[why].append(where)
        else:
            photo = StoredPhoto(where, entry.size, entry.key, store)
            found.append((photo, escaped_path(entry.key)))  # "../" in keys is legal
    if not some:
        raise DataError(f"the file or folder {uri} does not exist")
    if not found:
        raise _no_images(uri)
    return found


def _left_out(names: Sequence[str]) -> str:
    """Why a file with these names of folders and its own is left out, or ""."""
    if any(name.startswith(".") for name in names):
        return "hidden"
    return "" if Path(names[-1]).suffix.lower() in SUFFIXES else "not an image by its suffix"


def _no_images(folder: object) -> DataError:
    return DataError(f"the folder {folder} contains no images", f"files of type {', '.join(sorted(SUFFIXES))}")


def _below(folder: Path, leave_out: Path, left: dict[str, list[str]]) -> Iterator[Path]:
    """All image files below the folder, and at the end the subfolders that cannot be read.

    Args:
        leave_out: a folder that is not searched.
        left: gets the paths of what else there is, by the reason why it is left out.
    """
    unread: list[OSError] = []
    for name, folders, files in os.walk(folder, onerror=unread.append):
        here, results = Path(name), ()
        if MARK in files and read_mark(here).get("kind") == PREDICTIONS:
            results = RESULTS
        inside = sorted(one for one in folders if os.path.islink(here / one) or (here / one).resolve() != leave_out)
        folders[:] = []
        for one in inside:
            link = "a link to a folder" if os.path.islink(here / one) else ""
            if why := "hidden" if one.startswith(".") else EARLIER if one in results else link:
                left[why].append(str(here / one))
            else:
                folders.append(one)
        for file in sorted(files):
            if file == MARK:
                continue
            if why := _left_out([file]):
                left[why].append(str(here / file))
            else:
                yield here / file
    yield from (Path(error.filename) for error in unread)
