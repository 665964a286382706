"""What a step logs to MLflow once for each pipeline run: now or, while MLflow is away, later.

An entry has a name. Its receipt, tracked/RUN/NAME.json in the store, proves that it was logged. While MLflow is away
the entry itself is kept in untold/RUN/NAME.json; the steps compare and promote log what they find there. An entry
that is logged twice, or was interrupted, leaves the same as one that was logged once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel

from cliptea import progress
from cliptea.run import Run
from cliptea.storage import Store
from cliptea.tracking.address import TrackingError

__all__ = ["SHORT_SECONDS", "Entry", "ModelPlace", "Receipt", "defer", "log_deferred", "log_or_defer", "receipt"]

RECEIPTS, DEFERRED = "tracked", "untold"
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


def receipt(store: Store, run: Run, name: str) -> Receipt | None:
    """The receipt of an entry, or None when it has not been logged yet."""
    key = f"{RECEIPTS}/{run.tracking_run}/{name}.json"
    return None if store.size(key) is None else Receipt.model_validate_json(store.get(key))


def log_or_defer(store: Store, run: Run, entry: Entry) -> Receipt | None:
    """Log an entry to MLflow; returns its receipt, or None when MLflow is away and the entry is kept."""
    try:
        return _log(store, run, entry, SHORT_SECONDS)
    except TrackingError as away:
        defer(store, run, entry)
        progress.warn(
            f"{entry.what} could not be logged ({away.what}); compare or promote will log them when MLflow is back"
        )
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
    known = {kind.kind: kind for kind in kinds}
    keys = [entry.key for entry in store.entries(f"{DEFERRED}/{run.tracking_run}")]
    kept = {key: Note.model_validate_json(store.get(key)) for key in keys}
    for key, note in sorted(kept.items(), key=lambda item: list(known).index(item[1].kind)):
        entry = known[note.kind].model_validate(note.entry)
        if receipt(store, run, entry.name) is None:
            _log(store, run, entry, seconds)
            progress.note(f"logged to MLflow after an outage: {entry.what}")
        store.delete(key)


def _log(store: Store, run: Run, entry: Entry, seconds: float | None) -> Receipt:
    from cliptea.tracking.mlflow_client import persist

    done = persist(lambda: entry.log(run), seconds)
    store.put(f"{RECEIPTS}/{run.tracking_run}/{entry.name}.json", done.model_dump_json().encode())
    return done
