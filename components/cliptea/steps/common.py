"""What every step does around its work: threads, manifests, errors, signs of life, and dying with its run."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from cliptea import __version__, env, progress
from cliptea.errors import ClipteaError, StorageError
from cliptea.outage import patience
from cliptea.run import Run
from cliptea.steps.retries import persistently
from cliptea.steps.watched import watched

if TYPE_CHECKING:
    from kfp.dsl import Artifact

__all__ = [
    "cores", "die_with", "read", "run_step", "write",
]  # fmt: skip

SIDE_BY_SIDE = 2  # tasks of a loop that kfp.local runs at once

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
    """Do the work of the step `name`, again after an error that may pass, and report its progress and its end.

    An error that the user can act on ends the process with one line and exit code 1. Any other error is raised.

    Args:
        name: of the step.
        work: what it does, given the run if there is one.
        run: what the resolve step hands on.
        job_id: the pipeline job, where there is no run yet.
        label: of the variant.
        of: steps of this name in the pipeline's loop; default: one for each variant where there is a label.
    """
    try:
        present = None if run is None else read(run, Run)
        tracking_run = ""
        if present is not None:
            work = partial(work, present)
            job_id, tracking_run = present.job_id, present.tracking_run
            of = of or (len(present.variants) if label else 1)
        if env.ALIVE.is_set():
            _belong_to_run()
            _share_cores(min(of or 1, SIDE_BY_SIDE))
        with watched(name, label, job_id, tracking_run), progress.step(name, label):
            patience()  # refused here, before anybody who asks for it suppresses errors
            return persistently(work)
    except ClipteaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def read(artifact: Artifact, model: type[Handed]) -> Handed:
    """What an earlier step handed on.

    Args:
        artifact: an input of the step.
        model: pydantic model of its content.

    Raises:
        StorageError: the content is of another form, as that of another version of cliptea.
    """
    try:
        return model.model_validate_json(Path(artifact.path).read_bytes())
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StorageError(
            f"the input artifact {artifact.uri} is not a valid {model.__name__} ({where}: {error.errors()[0]['msg']})",
            f"an artifact of cliptea {__version__}",
            "run the whole pipeline with one version of cliptea",
        ) from None


def write(artifact: Artifact, handed: BaseModel) -> None:
    """Hand something on to later steps."""
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(handed.model_dump_json(indent=1), encoding="utf-8")


def cores() -> int:
    """Processor cores that this process may use, by its affinity and its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups of version 2, or no limit ("max")
        return count


def die_with(pipe: str) -> None:
    """Kill this process and all that it started as soon as nobody holds the named pipe open for writing.

    A pipe, since the system closes it whatever way its holder ends. The parent process would not tell, since
    between a run and its task stands a shell.
    """
    try:
        handle = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(handle, True)
    except FileNotFoundError:
        _kill_all()

    def wait() -> None:
        os.read(handle, 1)  # nothing is ever written: it returns at the end of the file
        _kill_all()

    threading.Thread(target=wait, name="cliptea-die-with-run", daemon=True).start()


def _kill_all() -> None:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)


def _belong_to_run() -> None:
    # Locked before the look at the pipe: a new run sees the lock, or this task sees that its pipe is closed.
    lock = os.open(env.TASKS_LOCK.get(), os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_SH)
    die_with(env.ALIVE.get())


def _share_cores(tasks: int) -> None:
    """Set the threads of torch, of this process and of those that it starts. The user's own limits hold."""
    share = max(1, cores() // tasks)
    limits = [variable.get() for variable in (env.THREADS, env.OMP_NUM_THREADS)]
    threads = min([share, *(int(limit) for limit in limits if limit.isdigit() and int(limit) > 0)])
    env.THREADS.set(str(threads))
    env.OMP_NUM_THREADS.set(str(threads))
    if "torch" in sys.modules:  # in a fork of a process that has imported it, which read the environment then
        sys.modules["torch"].set_num_threads(threads)
