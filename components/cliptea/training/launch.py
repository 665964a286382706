"""Starting training in several processes of this machine, or this machine's processes of several: torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cliptea import errors
from cliptea.data.split import Splits
from cliptea.errors import ClipteaError
from cliptea.runs import Run, Variant
from cliptea.storage import Store
from cliptea.teacher.cache import TeacherCache
from cliptea.training.stopping import Stopped, sigterm

__all__ = ["FAILURE", "Inputs", "launch", "start"]

FAILURE = "CLIPTEA_FAILURE"  # a file in which the first process that fails says why
POLL_SECONDS = 0.1


class Inputs(BaseModel):
    """What `train_variant` is called with, in every process."""

    run: Run
    variant: Variant
    splits: Splits
    teacher: TeacherCache


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
    key = f"{prefix}/inputs.json"
    store.put(key, inputs.model_dump_json().encode())
    start(key, inputs.variant.config.train.processes)
    store.delete(key)


def start(key: str, processes: int) -> None:
    """Run torchrun on the inputs under `key`.

    Args:
        processes: on this machine; torchrun's own variables (PET_NPROC_PER_NODE, PET_NNODES, ...) come before it.

    Raises:
        Stopped, ClipteaError: as of `launch`.
    """
    own = [] if "PET_NPROC_PER_NODE" in os.environ else ["--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", "torch.distributed.run", *own, "-m", "cliptea.training", key]
    with tempfile.TemporaryDirectory(prefix="cliptea-") as folder, sigterm() as asked:
        failure = Path(folder) / "failure.json"
        process = subprocess.Popen(command, env={**_environment(processes), FAILURE: str(failure)})
        told = False
        while process.poll() is None:
            if asked.to_stop and not told:
                process.terminate()  # torchrun passes it on
                told = True
            time.sleep(POLL_SECONDS)
        if process.returncode != 0:
            raise _reason(failure, asked.to_stop, process.returncode)


def _environment(processes: int) -> dict[str, str]:
    """This process's, with its threads divided among those that it starts."""
    threads = os.environ.get("CLIPTEA_THREADS")
    if not threads:
        return dict(os.environ)
    share = str(max(1, int(threads) // processes))
    return {**os.environ, "CLIPTEA_THREADS": share, "OMP_NUM_THREADS": share}


def _reason(failure: Path, asked: bool, code: int) -> BaseException:
    if failure.exists():
        said: dict[str, Any] = json.loads(failure.read_text(encoding="utf-8"))
        if said["kind"] == Stopped.__name__:
            return Stopped(said["iteration"])
        return getattr(errors, said["kind"], ClipteaError)(said["text"])
    if asked:
        return Stopped(None)
    return ClipteaError(
        f"a training process was killed or crashed without a word of why (torchrun ended with {code})",
        todo="look in the log for its signal or its traceback; killed for memory, lower train.batch_size or raise the "
        "memory; run again to go on from the last checkpoint",
    )
