"""Lists of the outputs that each run uses, for `cliptea clean`: uses/RUN/NAME.json, where RUN is the run in MLflow.

A list is written before the run looks for any of its outputs. So an output that only lists of unwanted runs name can be
deleted, and one that no list names is never touched.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable

from pydantic import BaseModel

from cliptea.manifest import Output
from cliptea.run import Run
from cliptea.sealed import seal, unseal
from cliptea.storage import Store

__all__ = ["LISTS", "Uses", "put_uses", "read_uses"]

LISTS = "uses"  # folder of the store


class Uses(BaseModel):
    """The list of a run."""

    job_id: str
    written: float  # seconds since 1970, so that each write gives the object another version
    outputs: list[Output]


def put_uses(store: Store, run: Run, outputs: Iterable[Output]) -> None:
    """Store a list. The same outputs replace their earlier list, and other outputs of the run get another one."""
    listed = sorted(set(outputs))
    name = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
    uses = Uses(job_id=run.job_id, written=time.time(), outputs=listed)
    store.put(f"{LISTS}/{run.tracking_run}/{name}.json", seal(uses))


def read_uses(store: Store, key: str) -> Uses:
    """The list with this key.

    Raises:
        Damaged: it does not match its sha256.
        ValidationError: another version of cliptea has written it.
        StorageError: it does not exist, or cannot be read.
    """
    return unseal(store.get(key), Uses)
