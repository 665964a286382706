"""Checkpoints in the object store. They are written in the background, and the newest intact one is read.

A checkpoint is one object, ITERATION-DIGEST.pt. It is the output of `torch.save` for tensors and plain values, and its
name contains the hash of its bytes. It does not depend on the number of processes, because all of them hold the same
weights, optimiser state and bank, and data and random numbers only depend on (seed, iteration) (see `trainer`).
"""

from __future__ import annotations

import hashlib
import io
import re
from concurrent import futures
from typing import Any

import torch
from torch import Tensor

from cliptea import outage, progress
from cliptea.errors import ClipteaError, ServerAway, StorageError, one_line, refuse_system
from cliptea.finite import named_tensors, require_finite
from cliptea.storage import Entry, Store
from cliptea.storage.base import missing
from cliptea.training.distributed import ALONE, World

__all__ = ["Checkpoints"]

NAME = re.compile(r"\d{9}-[0-9a-f]{32}\.pt")  # everything else in the folder is somebody else's
LOOKS = 3  # for a checkpoint that all processes can read, while another run deletes some
LOOK_SECONDS = 0.2  # between two checks whether the previous write is done or the store is not available


class Gone(Exception):
    """Another run that trains the same student has deleted this checkpoint."""


class Checkpoints:
    """The checkpoints in one folder of a store. The first process writes them, and all processes read the same one.

    If the store is not available, checkpoints are skipped with a warning, and training continues.

    As a context manager, it waits for the last write at the end of the block.

    Args:
        store: where the checkpoints are written.
        folder: key prefix.
        keep: how many of the newest checkpoints to keep.
        world: the training processes. Each of them has such an object for the same folder.
    """

    def __init__(self, store: Store, folder: str, keep: int, world: World = ALONE) -> None:
        self._store, self._folder, self._keep, self._world = store, folder, keep, world
        self._writer = futures.ThreadPoolExecutor(1, thread_name_prefix="cliptea-checkpoint")
        self._writing: futures.Future[None] | None = None
        self._stored: int | None = None  # iteration of the last checkpoint that is known to be in the store

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                self.wait()
            else:  # its cause may be the same, and must not be hidden
                self._let_go()
        finally:
            self._writer.shutdown()

    def last(self) -> dict[str, Any] | None:
        """The state of the newest intact checkpoint, on the CPU, or None. Damaged ones are deleted with a warning.

        Raises:
            NotFinite: a tensor in it holds NaN or infinity.
            StorageError: this process cannot read the checkpoint that the first process has read.
        """
        key, data = self._agreed()
        if key is None:
            return None
        if data is None:
            raise StorageError(f"the checkpoint {self._store.uri(key)} is damaged", todo="run again")
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises almost any error for files that it has not written
            refuse_system(error, f"cannot read the checkpoint {self._store.uri(key)}")
            raise StorageError(
                f"the checkpoint {self._store.uri(key)} cannot be read ({one_line(error)[:100]})",
                "a file of tensors that this version of torch can read",
                "delete it and run again",
            ) from error
        require_finite(dict(named_tensors(state)), f"the checkpoint {self._store.uri(key)}", "delete it and run again")
        self._stored = int(key.rpartition("/")[2].partition("-")[0])
        return state

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Write a state in the background. Waits for the previous write, so that only one copy is in memory.

        If the store is not available, this checkpoint is skipped without waiting.

        Raises:
            StorageError: the store rejected the previous write.
        """
        if not self._world.is_first:
            return
        if self._written():
            self._writing = self._writer.submit(self._write, iteration, _copied(state))
        else:
            progress.warn(
                f"the checkpoint of iteration {iteration} was skipped because the store is not available; "
                "training continues"
            )

    def save_last(self, iteration: int, state: dict[str, Any]) -> None:
        """Write a state, and return when it is stored.

        Raises:
            StorageError: the state cannot be written.
        """
        if self._world.is_first:
            self.wait()
            # If there is too little time for it, this is the last line of the log.
            before = "no other one is stored"
            if self._stored is not None:
                before = f"the last stored one is of iteration {self._stored}"
            progress.note(f"stopping: saving the checkpoint of iteration {iteration}; {before}")
            self._write(iteration, state)

    def wait(self) -> None:
        """Wait until the last write is done.

        Raises:
            StorageError: the store rejected the last write.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except ServerAway as away:
            progress.warn(f"a checkpoint could not be stored: {away.what}")

    def _let_go(self) -> None:
        """Wait until the last write is done, when it no longer matters whether it succeeds."""
        try:
            self.wait()
        except ClipteaError as error:
            progress.warn(f"a checkpoint could not be stored: {error}")

    def clear(self) -> None:
        """Delete all checkpoints."""
        self._let_go()
        for entry in self._entries():
            self._store.delete(entry.key)

    def _written(self) -> bool:
        """Wait for the previous write. Returns False if that write is waiting for the store."""
        while self._writing is not None and not self._writing.done():
            if outage.present():
                return False
            futures.wait([self._writing], LOOK_SECONDS)
        self.wait()
        return True

    def _write(self, iteration: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        self._store.put(f"{self._folder}/{iteration:09d}-{_digest(data)}.pt", data)
        self._stored = iteration
        for entry in self._entries()[: -self._keep]:
            self._store.delete(entry.key)

    def _agreed(self) -> tuple[str | None, bytes | None]:
        """Key and bytes of the checkpoint that the first process has read. Here, it may be damaged (None)."""
        looks = 0
        while True:
            key, data = self._last_whole() if self._world.is_first else (None, None)
            key, gone = self._world.agree(key), False
            if key is None:
                return None, None
            try:
                data = data or self._whole(key)
            except Gone:
                gone = True
            if not self._world.any(gone):
                return key, data
            looks += 1
            if looks == LOOKS:
                raise missing(self._store.uri(key))

    def _last_whole(self) -> tuple[str | None, bytes | None]:
        """Key and bytes of the newest intact checkpoint. Another run that trains the same student may delete some."""
        passed: set[str] = set()
        while left := [entry.key for entry in self._entries() if entry.key not in passed]:
            key = left[-1]
            passed.add(key)
            try:
                data = self._whole(key)
            except Gone:
                continue
            if data is not None:
                return key, data
            progress.warn(f"the checkpoint {self._store.uri(key)} is damaged; using the previous one")
            self._store.delete(key)
        return None, None

    def _whole(self, key: str) -> bytes | None:
        """The bytes of a checkpoint if they match its name, or None. A mismatch is read a second time.

        Raises:
            Gone: it does not exist any more.
        """
        for _ in range(2):
            try:
                data = self._store.get(key)
            except StorageError:
                if self._store.entry(key) is None:
                    raise Gone from None
                raise
            if key.endswith(f"-{_digest(data)}.pt"):
                return data
        return None

    def _entries(self) -> list[Entry]:
        """All checkpoints, oldest first."""
        entries = self._store.entries(self._folder)
        return [entry for entry in entries if NAME.fullmatch(entry.key.removeprefix(f"{self._folder}/"))]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _copied(value: Any) -> Any:
    """The same structure with all tensors copied to the CPU, because training continues to change the originals."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
