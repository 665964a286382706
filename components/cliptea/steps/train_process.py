"""The train step in separate processes: `python -m cliptea.steps.train_process KEY`.

KEY is the key of an object in the store CLIPTEA_STORE that holds `TrainInputs` as JSON. The model and its manifest are
written to the store.

- `python -m cliptea.steps.train_process KEY` starts torchrun with the processes of this machine. Their number comes
  from torchrun's variables (PET_NPROC_PER_NODE, ...), or else from `train.processes`.
- `torchrun ... -m cliptea.steps.train_process KEY` is one of these processes. If a process exits with a code other than
  0, torchrun exits with 1.

Exit codes:

- 0: the model is in the store.
- 75: SIGTERM was received, or no step follows the training. A checkpoint is saved; start it again, with any number of
  processes, to resume.
- 76: the processes of another machine are gone, or a server was not available for too long. Start all processes again
  to resume.
- 77: the work has halted, see CLIPTEA_STALL_MINUTES. The log has the stacks of all threads; start it again to resume.
- 1: training failed. An error that the user can fix is printed as one line on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cliptea.steps.kfp_inside import AS_TASK

os.environ.update(AS_TASK)  # before kfp is imported below

from cliptea import env, watchdog
from cliptea.board import posting
from cliptea.cluster.trainer_status import reporting
from cliptea.cores import share_cores
from cliptea.errors import ClipteaError, StorageError, one_line
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import tell as print_line
from cliptea.outage import patience
from cliptea.sealed import Damaged, unseal
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs, train_variant
from cliptea.storage import open_store
from cliptea.training.failure import store_error
from cliptea.training.stopping import Deserted, Stopped
from cliptea.training.torchrun import start

BOARD_SECONDS = 20.0  # how long to wait for the store before a status update is dropped


def main(key: str) -> None:
    """Run as one of torchrun's processes, or start torchrun."""
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        env.EVENTS.set(os.devnull)  # only one process reports progress
    try:
        inputs = _inputs(key)
        if rank is None:
            if env.IN_CLUSTER.is_set():
                share_cores(1)
            with watchdog.guarded(_halted, patience()):
                start(TRAIN_PROCESS, key, inputs.variant.config.train.processes, inputs.follower, joins=True)
        else:
            with _reported(inputs, rank):
                _train(inputs)
    except Stopped as stopped:
        store_error(stopped)
        print_line("info", str(stopped))
        raise
    except ClipteaError as error:
        store_error(error)
        print_line("error", str(error))
        raise SystemExit(ExitCode.DESERTED if error.temporary else ExitCode.FAILED) from None
    except Exception as error:
        store_error(error)
        raise


def _inputs(key: str) -> TrainInputs:
    store = open_store()
    try:
        return unseal(store.get(key), TrainInputs)
    except Damaged as damaged:
        raise StorageError(f"{store.uri(key)} {damaged}", "the inputs of a training", "run again") from None


def _halted(text: str) -> None:
    print_line("error", text)


def _train(inputs: TrainInputs) -> None:
    from cliptea.training.distributed import left_alone

    try:
        train_variant(inputs, joined=True)
    except Exception as error:
        if left_alone(error):
            raise Deserted(one_line(error).partition(". ")[0]) from error
        raise


@contextmanager
def _reported(inputs: TrainInputs, rank: str) -> Iterator[None]:
    """Let the first process of a TrainJob report its progress to Trainer, and to the command that watches the run."""
    if inputs.follower is None or rank != "0":
        yield
        return
    store = open_store(patience=BOARD_SECONDS)
    with posting(store, inputs.run.job_id, "train", inputs.variant.label, writer="training"), reporting():
        yield


if __name__ == "__main__":
    main(sys.argv[1])
