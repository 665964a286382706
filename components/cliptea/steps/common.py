"""Code that all steps share: threads, artifacts, errors, heartbeats, and stopping together with their run."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from cliptea import __version__, env, progress, watchdog
from cliptea.cores import share_cores
from cliptea.errors import ClipteaError, StorageError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import Who, choose_format, tell
from cliptea.outage import patience
from cliptea.run import Run
from cliptea.sealed import Damaged, seal, unseal
from cliptea.steps.retries import persistently
from cliptea.steps.watched import watched
from cliptea.storage.local_files import open_lock

if TYPE_CHECKING:
    from kfp.dsl import Artifact

__all__ = [
    "die_with", "read", "run_step", "write",
]  # fmt: skip

LOCK_SECONDS = 20.0  # a starting run holds the lock for an instant only
SIDE_BY_SIDE = 2  # tasks of a loop that kfp.local runs at the same time

Made = TypeVar("Made")
Handed = TypeVar("Handed", bound=BaseModel)


def run_step(
    name: str,
    work: Callable[..., Made],
    *,
    run: Artifact | None = None,
    job_id: str = "",
    label: str = "",
    of: int | None = None,
) -> Made:
    """Run the step `name`, report its progress and its end, and retry it after temporary errors.

    An error that the user can fix ends the process with a one-line message and exit code 1. Other errors are raised.

    Args:
        work: the work of the step. It gets the run as an argument if `run` is given.
        run: output of the resolve step.
        job_id: the pipeline job, for steps that have no run yet.
        of: number of steps with this name in the pipeline's loop; defaults to one per variant if there is a label.
    """
    try:
        present = None if run is None else _given(run, name, label)
        tracking_run = ""
        if present is not None:
            work = partial(work, present)
            job_id, tracking_run = present.job_id, present.tracking_run
            of = of or (len(present.variants) if label else 1)
        if env.ALIVE.is_set():
            _belong_to_run()
            share_cores(min(of or 1, SIDE_BY_SIDE))
        elif env.IN_CLUSTER.is_set():
            share_cores(1)
        step = progress.step(name, label, job_id)
        # An invalid patience must fail here, because later callers suppress errors.
        with watched(name, label, job_id, tracking_run), step, watchdog.guarded(progress.halted, patience()):
            choose_format()
            return persistently(work)
    except ClipteaError as error:
        tell("error", str(error), Who(name, label, job_id))
        raise SystemExit(ExitCode.FAILED) from None


def _given(run: Artifact, name: str, label: str) -> Run:
    try:
        return read(run, Run)
    except ClipteaError:
        with progress.step(name, label):  # which tells that the step has failed
            raise


def read(artifact: Artifact, model: type[Handed]) -> Handed:
    """Read the output of an earlier step.

    Raises:
        StorageError: it is damaged, or does not match the model, for example because another version of cliptea wrote
            it.
    """
    try:
        return unseal(Path(artifact.path).read_bytes(), model)
    except Damaged as damaged:
        raise StorageError(
            f"the input artifact {artifact.uri} {damaged}", "the content that its step wrote", "run the pipeline again"
        ) from None
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StorageError(
            f"the input artifact {artifact.uri} is not a valid {model.__name__} ({where}: {error.errors()[0]['msg']})",
            f"an artifact of cliptea {__version__}",
            "run the whole pipeline with one version of cliptea",
        ) from None


def write(artifact: Artifact, handed: BaseModel) -> None:
    """Write an output for later steps."""
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(seal(handed))


def die_with(pipe: str) -> None:
    """Kill this process and its child processes as soon as no process holds the named pipe open for writing.

    The operating system closes the pipe no matter how its holder ends. Watching the parent process would not work,
    because there is a shell between a run and its task.
    """
    try:
        handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(handle, True)
    except FileNotFoundError:
        _kill_all()

    def wait() -> None:
        os.read(handle, 1)  # nothing is ever written, so this returns at the end of the file
        _kill_all()

    threading.Thread(target=wait, name="cliptea-die-with-run", daemon=True).start()


def _kill_all() -> None:
    watchdog.kill_children()
    os.kill(os.getpid(), signal.SIGKILL)


def _belong_to_run() -> None:
    # Lock before opening the pipe. Then either a new run sees the lock, or this task sees that its pipe is closed.
    lock = open_lock(Path(env.TASKS_LOCK.get()))
    deadline = time.monotonic() + LOCK_SECONDS
    while not _shared(lock):
        if time.monotonic() > deadline:
            raise StorageError(
                f"another process holds the lock {env.TASKS_LOCK.get()}",
                todo="stop it, or choose another work directory",
            )
        time.sleep(0.05)
    die_with(env.ALIVE.get())


def _shared(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
