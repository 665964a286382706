"""Starting training in several processes of this machine, or this machine's processes of several: torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cliptea import env
from cliptea.errors import ClipteaError
from cliptea.training.failure import told
from cliptea.training.follower import Follower, watching
from cliptea.training.stopping import Stopped, sigterm

__all__ = ["start"]

POLL_SECONDS = 0.1
STOP_SECONDS = 25  # that processes may take to stop, if a partner is silent; after 30 a pod is killed


def start(module: str, key: str, processes: int, follower: Follower | None = None) -> None:
    """Train in processes of their own, and wait for them.

    Args:
        module: what each of them runs, with `key` as its argument.
        key: of an object in the store that says what to train.
        processes: on this machine; torchrun's own variables (PET_NPROC_PER_NODE, PET_NNODES, ...) come before it.
        follower: whose silence ends training as SIGTERM does.

    Raises:
        Stopped: SIGTERM came; the processes have saved a checkpoint and ended.
        ClipteaError: that of the first process that failed.
    """
    own = [] if "PET_NPROC_PER_NODE" in os.environ else ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "cliptea.training.agent", *own, "-m", module, key]
    with tempfile.TemporaryDirectory(prefix="cliptea-") as folder, sigterm() as asked, watching(follower) as abandoned:
        failure = Path(folder) / "failure.json"
        process = subprocess.Popen(command, env={**_environment(processes), env.FAILURE.name: str(failure)})
        stopping = False
        while process.poll() is None:
            if not stopping and (asked.to_stop or abandoned.is_set()):
                process.terminate()  # torchrun passes it on
                stopping = True
            time.sleep(POLL_SECONDS)
        if process.returncode != 0:
            raise _reason(failure, stopping, process.returncode)


def _environment(processes: int) -> dict[str, str]:
    """This process's, with its threads divided among those that it starts."""
    given = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(STOP_SECONDS), **os.environ}
    threads = env.THREADS.count()
    if threads is None:
        return given
    share = str(max(1, threads // processes))
    return {**given, env.THREADS.name: share, env.OMP_NUM_THREADS.name: share}


def _reason(failure: Path, stopping: bool, code: int) -> BaseException:
    said = told(failure)
    if said is not None:
        return said
    if stopping:
        return Stopped(None)
    return ClipteaError(
        f"a training process crashed without an error message (torchrun exited with {code})",
        todo="look for a traceback in the log; run again to resume from the last checkpoint",
    )
