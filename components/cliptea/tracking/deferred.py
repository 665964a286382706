"""Entries that a step logs to MLflow once per pipeline run, immediately or after an outage of MLflow.

Each entry has a name. Its receipt in the store, tracked/RUN/NAME.json, proves that it was logged. If MLflow is not
available, the entry itself is stored as untold/RUN/NAME.json, and the steps compare and promote log it later. Logging
an entry again, for example after an interruption, has the same result as logging it once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from cliptea import progress
from cliptea.run import Run
from cliptea.sealed import Damaged, seal, unseal
from cliptea.storage import Store
from cliptea.tracking.address import MlflowAway

__all__ = [
    "SHORT_SECONDS", "Entry", "ModelPlace", "Receipt", "defer", "log_deferred", "log_or_defer", "read_record",
    "receipt", "receipt_key",
]  # fmt: skip

Recorded = TypeVar("Recorded", bound=BaseModel)
RECEIPTS, DEFERRED = "tracked", "untold"  # folders of the store
NAME = re.compile(r"[\w-]+\.json")  # everything else in them is somebody else's
SHORT_SECONDS = 15.0  # how long to wait for MLflow before an entry is deferred


class ModelPlace(NamedTuple):
    """The location of a model, as in a result row."""

    mlflow_run_id: str  # empty before the model is logged to MLflow
    model_uri: str


class Receipt(BaseModel):
    """The record of a logged entry."""

    mlflow_run_id: str = ""  # id of the variant's run

    def place(self) -> ModelPlace:
        """The location of the variant's model in MLflow."""
        return ModelPlace(self.mlflow_run_id, f"runs:/{self.mlflow_run_id}/model")


class Entry(BaseModel, ABC):
    """Something to log. Its fields contain everything that `log` needs in addition to the run."""

    kind: ClassVar[str]  # identifies the subclass

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the receipt, which depends on the content."""

    @property
    @abstractmethod
    def what(self) -> str:
        """A description of what is logged, for messages."""

    @abstractmethod
    def log(self, run: Run) -> Receipt:
        """Log the entry to MLflow. It is safe to call this twice."""


class Note(BaseModel):
    """A deferred entry."""

    kind: str
    entry: dict[str, Any]


def receipt_key(run: Run, name: str) -> str:
    """Where the receipt of that name lies in the store."""
    return f"{RECEIPTS}/{run.tracking_run}/{name}.json"


def receipt(store: Store, run: Run, name: str) -> Receipt | None:
    """The receipt of an entry, or None if it is not logged yet. It is logged again if its receipt is damaged."""
    return read_record(store, receipt_key(run, name), Receipt)


def read_record(store: Store, key: str, model: type[Recorded]) -> Recorded | None:
    """A sealed record of what is done, or None if there is none. A damaged record is noted, and its work done again."""
    if store.size(key) is None:
        return None
    try:
        return unseal(store.get(key), model)
    except Damaged as damaged:
        progress.note(f"{store.uri(key)} {damaged}; its work is done again")
    except ValidationError:
        pass
    return None


def log_or_defer(store: Store, run: Run, entry: Entry) -> Receipt | None:
    """Log an entry to MLflow and return its receipt. If MLflow is not available, defer the entry and return None."""
    try:
        return _log(store, run, entry, SHORT_SECONDS)
    except MlflowAway as away:
        defer(store, run, entry)
        if away.temporary:
            text = f"({away.what}); compare or promote will log them when MLflow is back"
        else:
            text = f"({away}); they are kept, and the same command logs them once that is fixed"
        progress.warn(f"{entry.what} could not be logged {text}")
        return None


def defer(store: Store, run: Run, entry: Entry) -> None:
    """Store an entry to log it later."""
    note = Note(kind=entry.kind, entry=entry.model_dump(mode="json"))
    store.put(f"{DEFERRED}/{run.tracking_run}/{entry.name}.json", seal(note))


def log_deferred(store: Store, run: Run, kinds: Sequence[type[Entry]], seconds: float | None = None) -> None:
    """Log all deferred entries of a run.

    Args:
        kinds: kinds of entries, in the order in which they must be logged.
        seconds: how long to wait for MLflow; defaults to `cliptea.outage.patience()`.

    Raises:
        TrackingError: MLflow is not available for longer than that, or rejects a request.
    """
    folder = f"{DEFERRED}/{run.tracking_run}"
    keys = [item.key for item in store.entries(folder) if NAME.fullmatch(item.key.removeprefix(f"{folder}/"))]
    kept = [(key, _kept(store, key, kinds)) for key in keys]
    order = [kind.kind for kind in kinds]
    for key, entry in sorted(kept, key=lambda item: order.index(item[1].kind) if item[1] else 0):
        if entry is not None and receipt(store, run, entry.name) is None:
            _log(store, run, entry, seconds)
            progress.note(f"logged to MLflow after an outage: {entry.what}")
        store.delete(key)


def _kept(store: Store, key: str, kinds: Sequence[type[Entry]]) -> Entry | None:
    """An entry that was kept; None for one that is damaged or of another version of cliptea: its step logs it again."""
    known = {kind.kind: kind for kind in kinds}
    try:
        note = unseal(store.get(key), Note)
        return known[note.kind].model_validate(note.entry)
    except Damaged as damaged:
        progress.warn(f"an entry for MLflow is dropped, because {store.uri(key)} {damaged}")
    except (ValidationError, KeyError):
        progress.warn(f"an entry for MLflow that another version of cliptea kept is dropped: {store.uri(key)}")
    return None


def _log(store: Store, run: Run, entry: Entry, seconds: float | None) -> Receipt:
    from cliptea.tracking.mlflow_client import persist

    done = persist(lambda: entry.log(run), seconds)
    store.put(receipt_key(run, entry.name), seal(done))
    return done
