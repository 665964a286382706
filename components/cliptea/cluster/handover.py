"""How the processes of a TrainJob, in other pods, learn what to train: they cannot be given a pipeline's artifacts.

The step puts the small manifests that it was given into the store as one object; the processes are told its key.
"""

from __future__ import annotations

import json
from typing import Any

from cliptea.storage import Store

__all__ = ["COMMAND", "hand_over"]

# What runs in every pod; the key is its last argument. It starts torchrun, which Trainer tells by PET_ variables where
# it is, and ends with the code 75 when it was stopped and has saved a checkpoint.
COMMAND = ("python", "-m", "cliptea.training")


def hand_over(store: Store, prefix: str, inputs: dict[str, Any]) -> str:
    """Put the arguments of `cliptea.training.train.train_variant` into the store.

    Args:
        store: the one that the pods use, too.
        prefix: KIND/FINGERPRINT of the model.
        inputs: run, variant, splits and teacher, as plain values.

    Returns:
        The object's key.
    """
    key = f"{prefix}/inputs.json"
    store.put(key, json.dumps(inputs).encode())
    return key
