"""`python -m cliptea.training KEY`: train what the object KEY of the store CLIPTEA_STORE describes.

The object is JSON, `{"run": ..., "variant": ..., "splits": ..., "teacher": ...}`: the arguments of
`cliptea.training.train.train_variant`; and `"follower"`, where somebody follows and training ends without them. The
model and its manifest go to the store, under the fingerprint that `train_fingerprint` gives.

    python -m cliptea.training KEY          starts torchrun with the processes of this machine: as many as torchrun's
                                            own variables say (PET_NPROC_PER_NODE, PET_NNODES, ...), or train.processes
    torchrun ... -m cliptea.training KEY    each of its processes; torchrun itself ends with 1 where they end otherwise

Exit codes:

    0     the model is in the store
    75    SIGTERM came, or nobody follows; a checkpoint is saved: start it again, with any number of processes, to go on
    76    this machine's processes did nothing wrong: those of another have gone, or a server was away for too long;
          start all of them again to go on
    1     it failed by itself; an error that a user can act on is one line on stderr
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

from cliptea import env
from cliptea.board import posting
from cliptea.errors import ClipteaError
from cliptea.storage import open_store
from cliptea.training.failure import tell
from cliptea.training.launch import Inputs, start
from cliptea.training.stopping import DESERTED, Deserted, Stopped
from cliptea.training.train import train_variant

BOARD_SECONDS = 20.0  # that the store may be away before news is left out


def main(key: str) -> None:
    """Be one of torchrun's processes, or start them."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        env.EVENTS.set(os.devnull)  # one process tells how it goes
    try:
        inputs = Inputs.model_validate_json(open_store().get(key))
        if rank is None:
            start(key, inputs.variant.config.train.processes, inputs.follower)
        else:
            with _board(inputs, rank):
                _train(inputs)
    except Stopped as stopped:
        tell(stopped)
        print(stopped, file=sys.stderr, flush=True)
        raise
    except ClipteaError as error:
        tell(error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(DESERTED if error.temporary else 1) from None
    except Exception as error:
        tell(error)
        raise


def _train(inputs: Inputs) -> None:
    from cliptea.training.distributed import left_alone

    try:
        train_variant(
            inputs.run, *(part.model_dump(mode="json") for part in (inputs.variant, inputs.splits, inputs.teacher))
        )
    except Exception as error:
        if left_alone(error):
            raise Deserted(" ".join(str(error).split()).partition(". ")[0]) from error
        raise


def _board(inputs: Inputs, rank: str) -> AbstractContextManager[None]:
    """The first process of a TrainJob shows how far it is, beside the status of the step that follows."""
    if inputs.follower is None or rank != "0":
        return nullcontext()
    store = open_store(patience=BOARD_SECONDS)
    return posting(store, inputs.run.job_id, "train", inputs.variant.label, writer="training")


if __name__ == "__main__":
    main(sys.argv[1])
