"""The train step in processes of its own: `python -m cliptea.steps.train_process KEY`.

KEY names an object in the store CLIPTEA_STORE that holds `TrainInputs` as JSON. The model and its manifest go to the
store.

    python -m cliptea.steps.train_process KEY          starts torchrun with the processes of this machine: as many as
                                                       torchrun's own variables say (PET_NPROC_PER_NODE, ...), or
                                                       train.processes
    torchrun ... -m cliptea.steps.train_process KEY    each of its processes; torchrun itself ends with 1 where they
                                                       end otherwise

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

os.environ.setdefault("_KFP_RUNTIME", "true")  # kfp's own variable: as in a task, import it without compiler and client

from cliptea import env
from cliptea.board import posting
from cliptea.errors import ClipteaError
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs, train_variant
from cliptea.storage import open_store
from cliptea.training.failure import tell
from cliptea.training.stopping import DESERTED, Deserted, Stopped
from cliptea.training.torchrun import start

BOARD_SECONDS = 20.0  # that the store may be away before news is left out


def main(key: str) -> None:
    """Be one of torchrun's processes, or start them."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        env.EVENTS.set(os.devnull)  # one process tells how it goes
    try:
        inputs = TrainInputs.model_validate_json(open_store().get(key))
        if rank is None:
            start(TRAIN_PROCESS, key, inputs.variant.config.train.processes, inputs.follower)
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


def _train(inputs: TrainInputs) -> None:
    from cliptea.training.distributed import left_alone

    try:
        train_variant(inputs)
    except Exception as error:
        if left_alone(error):
            raise Deserted(" ".join(str(error).split()).partition(". ")[0]) from error
        raise


def _board(inputs: TrainInputs, rank: str) -> AbstractContextManager[None]:
    """The first process of a TrainJob shows how far it is, beside the status of the step that follows."""
    if inputs.follower is None or rank != "0":
        return nullcontext()
    store = open_store(patience=BOARD_SECONDS)
    return posting(store, inputs.run.job_id, "train", inputs.variant.label, writer="training")


if __name__ == "__main__":
    main(sys.argv[1])
