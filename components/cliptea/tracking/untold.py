"""What MLflow could not be told while it was away: noted in the store, and told when it is back.

A telling has a name. That it was done is proved by tracked/RUN/NAME.json, which is written when it has ended well.
While MLflow is away its inputs are kept in untold/RUN/NAME.json; the steps compare and promote tell what they find
there. A telling that was interrupted, or done twice, is the same as one that was done once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from cliptea import progress
from cliptea.storage import Store
from cliptea.tracking.client import TrackingError, persist

if TYPE_CHECKING:
    from cliptea.runs import Run

__all__ = ["SHORT_SECONDS", "Teller", "Untold", "deliver", "model_place", "note", "tell", "told"]

TOLD, UNTOLD = "tracked", "untold"
SHORT_SECONDS = 15.0  # for telling what can wait
Teller = Callable[..., dict[str, Any]]  # tells MLflow, given the run and the inputs; returns facts for the proof


class Untold(BaseModel):
    """A telling that can be done later.

    Attributes:
        kind: names the teller.
        what: is told, as in "the scores".
        inputs: of the teller besides the run; JSON.
    """

    kind: Literal["data", "scores", "report"]
    what: str
    inputs: dict[str, Any]


def told(store: Store, run: Run, name: str) -> dict[str, Any] | None:
    """The facts that a telling has left, or None when it has not ended well yet."""
    key = f"{TOLD}/{run.tracking_run}/{name}.json"
    return None if store.size(key) is None else json.loads(store.get(key))


def tell(store: Store, run: Run, name: str, teller: Teller, untold: Untold) -> dict[str, Any] | None:
    """Tell MLflow; returns the facts, or None when it is away and `untold` is noted."""
    try:
        return _tell(store, run, name, teller, untold, SHORT_SECONDS)
    except TrackingError as away:
        note(store, run, name, untold)
        progress.warn(f"{untold.what}: kept, and told by compare or promote when MLflow is back ({away.what})")
        return None


def note(store: Store, run: Run, name: str, untold: Untold) -> None:
    """Keep a telling for later."""
    store.put(f"{UNTOLD}/{run.tracking_run}/{name}.json", json.dumps(untold.model_dump()).encode())


def deliver(store: Store, run: Run, tellers: Mapping[str, Teller], seconds: float | None = None) -> None:
    """Tell all that is noted for a run.

    Args:
        store: with the notes.
        run: the pipeline run.
        tellers: by kind, in the order in which they must tell.
        seconds: that MLflow may be away; default: `cliptea.outage.patience()`.

    Raises:
        TrackingError: it is away for longer, or refuses.
    """
    order = list(tellers)
    notes = [
        (entry.key, Untold.model_validate(json.loads(store.get(entry.key))))
        for entry in store.entries(f"{UNTOLD}/{run.tracking_run}")
    ]
    for key, untold in sorted(notes, key=lambda item: order.index(item[1].kind)):
        name = key.rpartition("/")[2].removesuffix(".json")
        if told(store, run, name) is None:
            _tell(store, run, name, tellers[untold.kind], untold, seconds)
            progress.note(f"MLflow has been told what it missed: {untold.what}")
        store.delete(key)


def model_place(facts: Mapping[str, Any] | None) -> dict[str, str]:
    """What a result row says of the model in MLflow, by the facts of the telling of its scores; nothing before it."""
    if facts is None:
        return {}
    return {"mlflow_run_id": facts["mlflow_run_id"], "model_uri": f"runs:/{facts['mlflow_run_id']}/model"}


def _tell(store: Store, run: Run, name: str, teller: Teller, untold: Untold, seconds: float | None) -> dict[str, Any]:
    facts = persist(lambda: teller(run, **untold.inputs), seconds)
    store.put(f"{TOLD}/{run.tracking_run}/{name}.json", json.dumps(facts).encode())
    return facts
