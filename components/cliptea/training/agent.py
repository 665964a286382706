"""`python -m cliptea.training.agent`: torchrun that also reports which signal killed a training process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousError

from cliptea.messages import of_signal
from cliptea.training.failure import store_error
from cliptea.training.stopping import Deserted, Killed


def main(arguments: list[str]) -> None:
    """Run torchrun with these arguments."""
    try:
        run.main(arguments)
    except ChildFailedError as error:
        killed = _killers(error.failures.values())
        if killed == [signal.SIGABRT] and _watched(arguments):
            store_error(Deserted("a process aborted with SIGABRT"))
        elif killed:
            store_error(
                Killed(
                    f"a training process was killed by {' and '.join(map(of_signal, killed))}",
                    todo="run again to resume from the last checkpoint",
                )
            )
        raise
    except (RendezvousError, dist.DistError) as error:
        store_error(Deserted(f"torchrun: {type(error).__name__}"))
        raise


def _killers(failures: Iterable[ProcessFailure]) -> list[int]:
    """The signals that killed the first processes to end. Torchrun ends the others, by SIGTERM and later by SIGKILL."""
    ended = list(failures)
    first = min(failure.timestamp for failure in ended)  # in seconds
    codes = {failure.exitcode for failure in ended if failure.timestamp == first}
    own = codes - {-signal.SIGTERM} or codes
    return sorted(-code for code in own if code < 0)


def _watched(arguments: list[str]) -> bool:
    """Whether NCCL's watchdog is active, which aborts a process if another one does not respond."""
    world, _, _ = run.config_from_args(run.parse_args(arguments))
    return torch.cuda.is_available() and world.max_nodes * world.nproc_per_node > 1


if __name__ == "__main__":
    main(sys.argv[1:])
