"""Checkpoints in the object store: written beside the training, the newest whole one read.

A checkpoint is one object, ITERATION-DIGEST.pt: what `torch.save` makes of tensors and plain values, under a name that
says what its bytes must be. It belongs to no process: all hold the same weights, optimiser state and bank, data are
chosen by (seed, iteration), and so are random numbers (see `trainer`), so that any number of processes may go on.
"""

from __future__ import annotations

import hashlib
import io
from concurrent import futures
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cliptea import outage, progress
from cliptea.errors import ServerAway, StorageError
from cliptea.storage import Entry, Store
from cliptea.training.distributed import ALONE, World

__all__ = ["Checkpoints"]

LOOK_SECONDS = 0.2  # between two looks at whether the write before has ended, or the store is away


class Checkpoints:
    """The checkpoints below one folder of a store. The first process writes them, all read the same one.

    A store that is away costs checkpoints, not the training: those that cannot be written are named in a warning.

    As a context manager: at the end of the block nothing is being written any more.

    Args:
        store: where they lie.
        folder: key prefix.
        keep: how many are kept, the newest.
        world: the processes.
    """

    def __init__(self, store: Store, folder: str, keep: int, world: World = ALONE) -> None:
        self._store, self._folder, self._keep, self._world = store, folder, keep, world
        self._writer = futures.ThreadPoolExecutor(1, thread_name_prefix="cliptea-checkpoint")
        self._writing: futures.Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def last(self) -> dict[str, Any] | None:
        """The newest whole checkpoint's state, on the CPU; None without any. Damaged ones are removed, and named.

        Raises:
            StorageError: this process cannot read whole what the first one could.
        """
        key, data = self._last_whole() if self._world.is_first else (None, None)
        key = self._world.agree(key)
        if key is None:
            return None
        data = data or self._whole(key)
        if data is None:
            raise StorageError(f"the checkpoint {self._store.uri(key)} is damaged", todo="run again")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Write a state while training goes on; waits for the write before, so that one copy is in memory.

        While the store is away it does not wait, and leaves this one out.

        Raises:
            StorageError: the store has refused the write before.
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
        """Write a state, after which training may end.

        Raises:
            StorageError: it cannot be written.
        """
        if self._world.is_first:
            self.wait()
            self._write(iteration, state)

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            StorageError: the store has refused the last write.
        """
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except ServerAway as away:
            progress.warn(f"a checkpoint could not be stored: {away.what}")

    def clear(self) -> None:
        """Remove all of them."""
        self.wait()
        for entry in self._entries():
            self._store.delete(entry.key)

    def _written(self) -> bool:
        """Wait for the write before; False when it waits for the store."""
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
        for entry in self._entries()[: -self._keep]:
            self._store.delete(entry.key)

    def _last_whole(self) -> tuple[str | None, bytes | None]:
        """Key and bytes of the newest."""
        for entry in reversed(self._entries()):
            data = self._whole(entry.key)
            if data is not None:
                return entry.key, data
            progress.warn(f"the checkpoint {self._store.uri(entry.key)} is damaged; using the previous one")
            self._store.delete(entry.key)
        return None, None

    def _whole(self, key: str) -> bytes | None:
        """Its bytes if they are those that its name says, read once more if they are not."""
        for _ in range(2):
            data = self._store.get(key)
            if key.endswith(f"-{_digest(data)}.pt"):
                return data
        return None

    def _entries(self) -> list[Entry]:
        """Oldest first."""
        return list(self._store.entries(self._folder))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _copied(value: Any) -> Any:
    """The same structure with tensors copied to the CPU: training goes on in the originals."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
