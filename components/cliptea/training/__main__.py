"""`python -m cliptea.training KEY`: train what the object KEY of the store CLIPTEA_STORE describes.

The object is JSON, `{"run": ..., "variant": ..., "splits": ..., "teacher": ...}`: the arguments of
`cliptea.training.train.train_variant`. The model and its manifest go to the store, under the fingerprint that
`train_fingerprint` gives.

    python -m cliptea.training KEY          starts torchrun with the processes of this machine: as many as torchrun's
                                            own variables say (PET_NPROC_PER_NODE, PET_NNODES, ...), or train.processes
    torchrun ... -m cliptea.training KEY    each of its processes; torchrun itself ends with 1 where they end with 75

Exit codes:

    0     the model is in the store
    75    SIGTERM came, a checkpoint is saved: start it again, with any number of processes, to go on
    1     it failed; an error that a user can act on is one line on stderr
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from cliptea.errors import ClipteaError
from cliptea.storage import open_store
from cliptea.training.launch import FAILURE, Inputs, start
from cliptea.training.stopping import Stopped
from cliptea.training.train import train_variant


def main(key: str) -> None:
    """Be one of torchrun's processes, or start them."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        os.environ["CLIPTEA_EVENTS"] = os.devnull  # one process tells how it goes
    try:
        inputs = Inputs.model_validate_json(open_store().get(key))
        if rank is None:
            start(key, inputs.variant.config.train.processes)
        else:
            train_variant(
                inputs.run, *(part.model_dump(mode="json") for part in (inputs.variant, inputs.splits, inputs.teacher))
            )
    except Stopped as stopped:
        _tell(stopped, iteration=stopped.iteration)
        print(stopped, file=sys.stderr, flush=True)
        raise
    except ClipteaError as error:
        _tell(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _tell(error: BaseException, **facts: int | None) -> None:
    """Leave the reason for whoever started torchrun, unless another process has."""
    if FAILURE in os.environ and not Path(os.environ[FAILURE]).exists():
        said = {"kind": type(error).__name__, "text": str(error), **facts}
        Path(os.environ[FAILURE]).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
