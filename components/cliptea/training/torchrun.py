"""Starts the training processes of this machine with torchrun. Other machines may take part in the same training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cliptea import env, watchdog
from cliptea.errors import ClipteaError
from cliptea.training.failure import reserve_room, stored_error
from cliptea.training.follower import Follower, watching
from cliptea.training.stopping import Stopped, sigterm

__all__ = ["start"]

POLL_SECONDS = 0.1
# Variables that torchrun sets or reads, and those of launchers like it. Those of another job must not count here: with
# LOGLEVEL=debug torchrun ends at once, and PYTHON_EXEC names the Python of the training processes.
LAUNCHERS = re.compile(
    r"(RANK|WORLD_SIZE|(LOCAL|GROUP|ROLE)_(RANK|WORLD_SIZE|NAME)|MASTER_(ADDR|PORT)|LOGLEVEL|PYTHON_EXEC)$|"
    r"(TORCHELASTIC|SLURM|OMPI|PMI)_"
)
JOINING = "PET_"  # prefix of the variables with which Kubeflow Trainer tells the processes of all pods about each other
POD_SECONDS = 30  # after which Kubernetes kills a pod that it has told to stop, unless CLIPTEA_GRACE_SECONDS is set
SPARE_SECONDS = 5  # of them, for torchrun and this process to end after the training processes


def start(module: str, key: str, processes: int, follower: Follower | None = None, *, joins: bool = False) -> None:
    """Train in child processes, and wait for them.

    Args:
        module: the module that each process runs, with `key` as its argument.
        key: key of an object in the store that describes what to train.
        processes: number of processes on this machine.
        follower: if it is silent for too long, training stops as after SIGTERM.
        joins: whether Kubeflow Trainer has started this process, so that its variables (PET_NPROC_PER_NODE, PET_NNODES,
            ...) take precedence.

    Raises:
        Stopped: SIGTERM was received. The processes have saved a checkpoint and exited.
        ClipteaError: the error of the first process that failed.
    """
    own = [] if joins and "PET_NPROC_PER_NODE" in os.environ else ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "cliptea.training.agent", *own, "-m", module, key]
    with tempfile.TemporaryDirectory(prefix="cliptea-") as folder, sigterm() as asked, watching(follower) as abandoned:
        failure, pulse = Path(folder) / "failure.json", Path(folder) / "pulse"
        reserve_room(failure)
        pulse.touch()
        given = {env.FAILURE.name: str(failure), env.PULSE.name: str(pulse)}
        process = subprocess.Popen(command, env={**_environment(processes, joins), **given})
        stopping = False
        while process.poll() is None:
            watchdog.passed_on(pulse)
            if not stopping and (asked or abandoned.is_set()):
                process.terminate()  # torchrun passes it on
                stopping = True
            time.sleep(POLL_SECONDS)
        if process.returncode != 0:
            raise _reason(failure, stopping, process.returncode)


def _environment(processes: int, joins: bool) -> dict[str, str]:
    """The environment of this process without other launchers' variables, and with its threads divided."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not LAUNCHERS.match(name) and (joins or not name.startswith(JOINING))
    }
    # How long processes may take to stop if another one does not respond.
    stop = max(1, (env.GRACE.count() or POD_SECONDS) - SPARE_SECONDS)
    given = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(stop), "PYTHONFAULTHANDLER": "1", **own}
    threads = env.THREADS.count()
    if threads is None:
        return given
    share = str(max(1, threads // processes))
    return {**given, env.THREADS.name: share, env.OMP_NUM_THREADS.name: share}


def _reason(failure: Path, stopping: bool, code: int) -> BaseException:
    said = stored_error(failure)
    if said is not None:
        return said
    if stopping:
        return Stopped(None)
    return ClipteaError(
        f"a training process crashed without an error message (torchrun exited with {code})",
        todo="look for a traceback in the log; run again to resume from the last checkpoint",
    )
