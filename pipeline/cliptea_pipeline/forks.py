"""Local tasks as forks of one warm Python.

kfp.local starts a new Python process for each task, which spends seconds on imports first. This adds up to a minute in
a demo run, and to most of the time of a run that reuses everything. Here, a *nursery* process imports what tasks need
and is forked for each task. The code of the task, including kfp's executor, is the same; only its process starts
differently.
"""

from __future__ import annotations

import atexit
import codecs
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cliptea.log_lines import print_line
from cliptea.messages import redacted
from cliptea.steps.kfp_inside import AS_TASK, EXECUTOR

__all__ = ["Nursery"]

# What a step needs that finds its output: MLflow, but no torch.
EVERY_TASK = (
    EXECUTOR, "cliptea.steps.resolve", "cliptea.steps.train", "cliptea.steps.promote", "cliptea.data.datasets",
    "cliptea.data.records", "cliptea.tracking.registry", "cliptea.tracking.runs", "cliptea.tracking.state",
    "mlflow.store.model_registry.sqlalchemy_store", "mlflow.store.tracking.sqlalchemy_store",
)  # fmt: skip
# A process with threads should not fork, so libraries must not start any when they are imported.
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
# Imported once a task needs them, at the same time as it imports them itself.
WARM = ("torch", "torchvision.transforms.v2", "timm", "segmentation_models_pytorch", "open_clip", "scipy.optimize")


class Nursery:
    """The runner's side: starts tasks and forwards their output."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        environment = {**os.environ, **NO_THREADS, **AS_TASK}
        subprocess.Popen(command, env=environment, pass_fds=(theirs.fileno(),))
        theirs.close()

    def run(self, full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        """Run a task and print its output, for `cliptea.steps.kfp_inside.start_tasks_with`.

        Args:
            full_command: a lightweight component's: a shell, its script, the component's source, its arguments.
            env_vars: the task's own environment variables.

        Returns:
            The exit code, or the negative number of the signal that ended the task.
        """
        _, _, script, source, *arguments = full_command
        assert EXECUTOR in script, "kfp.local runs its tasks in another way than kfp 2.17"
        folder = Path(tempfile.mkdtemp())
        component = folder / "ephemeral_component.py"
        component.write_text(source, encoding="utf-8")
        task = {"arguments": ["--component_module_path", str(component), *arguments], "environment": env_vars or {}}
        request = folder / "task.json"
        request.write_text(json.dumps(task), encoding="utf-8")
        output, output_end = os.pipe()
        ended, ended_end = os.pipe()
        with self._lock:
            socket.send_fds(self._socket, [os.fsencode(request)], [output_end, ended_end])
            os.close(output_end)
            os.close(ended_end)
            self._socket.recv(1)  # wait for the fork, so that requests do not mix
        _print_until(output, ended)
        with os.fdopen(ended) as code:
            return int(code.read() or 1)


def _print_until(output: int, ended: int) -> None:
    """Print the task's output until it ends. What it has left running may hold the pipe open for longer."""
    with os.fdopen(output, "rb", buffering=0) as pipe:
        decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
        while True:
            ready, _, _ = select.select([pipe, ended], [], [])
            if pipe not in ready:  # it has ended, and all of its output is read
                break
            data = pipe.read(1 << 16)
            *lines, rest = (rest + decoder.decode(data or b"", final=not data)).split("\n")
            for line in lines:
                print_line(redacted(line), sys.stdout)
            if not data:
                break
        if rest:
            print_line(redacted(rest), sys.stdout)


def _serve(connection: socket.socket) -> dict[str, Any]:
    """The nursery's side. It only returns in the fork of a task, with that task."""
    for name in EVERY_TASK:
        importlib.import_module(name)
    needed, needed_end = os.pipe()
    while True:
        ready, _, _ = select.select([connection, needed], [], [])
        if connection not in ready:
            for name in os.read(needed, 4096).decode().split():
                with suppress(Exception):  # the task has the same error and reports it
                    importlib.import_module(name)
            continue
        request, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        if not request:  # the run has ended
            os._exit(0)
        gc.freeze()  # or else every fork would copy all imported objects when it collects garbage at its end
        if _fork() == 0:
            connection.close()
            output, ended = descriptors
            task = os.fork()
            if task == 0:
                os.close(ended)
                for target in (1, 2):
                    os.dup2(output, target)
                os.close(output)
                return {**json.loads(Path(os.fsdecode(request)).read_bytes()), "needed": needed_end}
            os.close(output)
            _, status = os.waitpid(task, 0)
            with suppress(OSError):  # the runner is dead
                os.write(ended, str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(b".")


def _fork() -> int:
    # Nothing waits for the children here.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return pid


def _work(arguments: Sequence[str], environment: dict[str, str], needed: int) -> int:
    """Run the task in this process, and return its exit code."""
    random.seed()
    for name, value in environment.items():  # from the compiled pipeline; the user's own variables take precedence
        os.environ.setdefault(name, value)
    sys.argv = [EXECUTOR, *arguments]
    _tell_needed(needed)
    try:
        importlib.import_module(EXECUTOR).executor_main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _tell_needed(pipe: int) -> None:
    """Tell the nursery which modules of WARM this task begins to import. To look for a module is not an import."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import" and arguments[0] in WARM:
            with suppress(OSError):  # the run is dead
                os.write(pipe, f"{arguments[0]} ".encode())

    sys.addaudithook(hook)


def _main() -> None:
    code = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # registered first, so called last; unloading all modules would take a second
    code = _work(**_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    _main()
