"""How the processes of a TrainJob, in other pods, learn what to train: they cannot be given a pipeline's artifacts.

The step puts the small manifests that it was given into the store as one object; the processes are told its key.
"""

from __future__ import annotations

import json
from typing import Any

from cliptea.board import status_key
from cliptea.storage import Store
from cliptea.training.launch import inputs_key

__all__ = ["hand_over"]


def hand_over(store: Store, prefix: str, inputs: dict[str, Any], abandoned_seconds: int) -> str:
    """Put the arguments of `cliptea.training.train.train_variant` into the store, and where to look for this step.

    Args:
        store: the one that the pods use, too.
        prefix: KIND/FINGERPRINT of the model.
        inputs: run, variant, splits and teacher, as plain values.
        abandoned_seconds: after which training ends when this step's status on the board stands still.

    Returns:
        The object's key.
    """
    job_id, label = inputs["run"]["job_id"], inputs["variant"]["label"]
    key = inputs_key(prefix, job_id, label)
    follower = {"key": status_key(job_id, "train", label), "seconds": abandoned_seconds}
    store.put(key, json.dumps(inputs | {"follower": follower}).encode())
    return key
