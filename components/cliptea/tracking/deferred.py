"""What a step logs to MLflow once for each pipeline run: now or, while MLflow is away, later.

An entry has a name. Its receipt, tracked/RUN/NAME.json in the store, proves that it was logged. While MLflow is away
the entry itself is kept in untold/RUN/NAME.json; the steps compare and promote log what they find there. An entry
that is logged twice, or was interrupted, leaves the same as one that was logged once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ValidationError

from cliptea import progress
from cliptea.run import Run
from cliptea.storage import Store
from cliptea.tracking.address import TrackingError

__all__ = [
    "SHORT_SECONDS",
    "Entry",
    "ModelPlace",
    "Receipt",
    "defer",
    "log_deferred",
    "log_or_defer",
    "receipt",
    "receipt_key",
]

RECEIPTS, DEFERRED = "tracked", "untold"  # folders of the store
SHORT_SECONDS = 15.0  # that MLflow may be away for what can wait


class ModelPlace(NamedTuple):
    """What a result row says of where its model is."""

    mlflow_run_id: str  # nothing before MLflow has it
    model_uri: str


class Receipt(BaseModel):
    """What is known of an entry that was logged."""

    mlflow_run_id: str = ""  # of a variant's run

    def place(self) -> ModelPlace:
        """Where the variant's model is in MLflow."""
        return ModelPlace(self.mlflow_run_id, f"runs:/{self.mlflow_run_id}/model")


class Entry(BaseModel, ABC):
    """Something to log. Its fields are all that `log` needs besides the run."""

    kind: ClassVar[str]  # the same for entries that are logged in the same way

    @property
    @abstractmethod
    def name(self) -> str:
        """Of its receipt; another one for other content."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is logged, as in "the scores"."""

    @abstractmethod
    def log(self, run: Run) -> Receipt:
        """Log it to MLflow; may be done twice."""


class Note(BaseModel):
    """An entry that is kept for later."""

    kind: str
    entry: dict[str, Any]


def receipt_key(run: Run, name: str) -> str:
    """Where the receipt of that name lies in the store."""
    return f"{RECEIPTS}/{run.tracking_run}/{name}.json"


def receipt(store: Store, run: Run, name: str) -> Receipt | None:
    """The receipt of an entry, or None when it has not been logged yet."""
    key = receipt_key(run, name)
    return None if store.size(key) is None else Receipt.model_validate_json(store.get(key))


def log_or_defer(store: Store, run: Run, entry: Entry) -> Receipt | None:
    """Log an entry to MLflow; returns its receipt, or None when MLflow is away and the entry is kept."""
    try:
        return _log(store, run, entry, SHORT_SECONDS)
    except TrackingError as away:
        defer(store, run, entry)
        progress.warn(f"{entry.what}: kept, and logged by compare or promote when MLflow is back ({away.what})")
        return None


def defer(store: Store, run: Run, entry: Entry) -> None:
    """Keep an entry for later."""
    note = Note(kind=entry.kind, entry=entry.model_dump(mode="json"))
    store.put(f"{DEFERRED}/{run.tracking_run}/{entry.name}.json", note.model_dump_json().encode())


def log_deferred(store: Store, run: Run, kinds: Sequence[type[Entry]], seconds: float | None = None) -> None:
    """Log every entry that is kept for a run.

    Args:
        store: where they are kept.
        run: the pipeline run.
        kinds: of entries, in the order in which they must be logged.
        seconds: that MLflow may be away; default: `cliptea.outage.patience()`.

    Raises:
        TrackingError: it is away for longer, or refuses.
    """
    kept = [(item.key, _kept(store, item.key, kinds)) for item in store.entries(f"{DEFERRED}/{run.tracking_run}")]
    order = [kind.kind for kind in kinds]
    for key, entry in sorted(kept, key=lambda item: order.index(item[1].kind) if item[1] else 0):
        if entry is not None and receipt(store, run, entry.name) is None:
            _log(store, run, entry, seconds)
            progress.note(f"MLflow has what it missed: {entry.what}")
        store.delete(key)


def _kept(store: Store, key: str, kinds: Sequence[type[Entry]]) -> Entry | None:
    """An entry that was kept; None for one of another version of cliptea: its step logs it again."""
    known = {kind.kind: kind for kind in kinds}
    try:
        note = Note.model_validate_json(store.get(key))
        return known[note.kind].model_validate(note.entry)
    except (ValidationError, KeyError):
        progress.warn(f"an entry for MLflow that another version of cliptea kept is dropped: {store.uri(key)}")
        return None


def _log(store: Store, run: Run, entry: Entry, seconds: float | None) -> Receipt:
    from cliptea.tracking.mlflow_client import persist

    done = persist(lambda: entry.log(run), seconds)
    store.put(receipt_key(run, entry.name), done.model_dump_json(exclude_defaults=True).encode())
    return done
