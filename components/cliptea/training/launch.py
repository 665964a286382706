"""Starting training in several processes of this machine, or this machine's processes of several: torchrun."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel

from cliptea import env
from cliptea.data.split import Splits
from cliptea.errors import ClipteaError
from cliptea.runs import Run, Variant
from cliptea.storage import Store
from cliptea.teacher.cache import TeacherCache
from cliptea.training.failure import told
from cliptea.training.follower import Follower, watching
from cliptea.training.stopping import Stopped, sigterm

__all__ = ["Inputs", "inputs_key", "launch", "start"]

POLL_SECONDS = 0.1
STOP_SECONDS = 25  # that processes may take to stop, if a partner is silent; after 30 a pod is killed


class Inputs(BaseModel):
    """What `train_variant` is called with, in every process; and who follows, where that is another pod."""

    run: Run
    variant: Variant
    splits: Splits
    teacher: TeacherCache
    follower: Follower | None = None


def inputs_key(prefix: str, job_id: str, label: str) -> str:
    """Where the inputs of a training lie in the store; runs of equal settings share a model and not its inputs.

    Args:
        prefix: KIND/FINGERPRINT of the model.
        job_id, label: of the pipeline job and of its variant.
    """
    digest = hashlib.sha256(f"{job_id}\0{label}".encode()).hexdigest()[:10]
    return f"{prefix}/inputs-{digest}.json"


def launch(store: Store, prefix: str, inputs: Inputs) -> None:
    """Train in processes of their own, and wait for them.

    Args:
        store: the one that CLIPTEA_STORE names.
        prefix: KIND/FINGERPRINT of the model; the inputs are handed over below it.
        inputs: what to train.

    Raises:
        Stopped: SIGTERM came; the processes have saved a checkpoint and ended.
        ClipteaError: that of the first process that failed.
    """
    key = inputs_key(prefix, inputs.run.job_id, inputs.variant.label)
    store.put(key, inputs.model_dump_json().encode())
    start(key, inputs.variant.config.train.processes)
    store.delete(key)


def start(key: str, processes: int, follower: Follower | None = None) -> None:
    """Run torchrun on the inputs under `key`.

    Args:
        processes: on this machine; torchrun's own variables (PET_NPROC_PER_NODE, PET_NNODES, ...) come before it.
        follower: whose silence ends training as SIGTERM does.

    Raises:
        Stopped, ClipteaError: as of `launch`.
    """
    own = [] if "PET_NPROC_PER_NODE" in os.environ else ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "cliptea.training.agent", *own, "-m", "cliptea.training", key]
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
        f"a training process crashed without a word of why (torchrun ended with {code})",
        todo="look in the log for its traceback; run again to go on from the last checkpoint",
    )
