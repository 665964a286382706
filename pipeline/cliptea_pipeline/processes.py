"""The processes of a local run, which have their own session and are all stopped at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from cliptea import env

__all__ = ["signals", "start", "stop"]

GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and SIGHUP instead of exiting. The list holds the signals received so far."""
    caught: list[int] = []
    old = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            old[number] = signal.signal(number, lambda number, frame: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def start(command: list[str], environment: dict[str, str], log: Path, keep: int) -> subprocess.Popen[bytes]:
    """Start a process in its own session, where the terminal's Ctrl-C does not reach it.

    Args:
        keep: a file descriptor that it inherits, the work directory's lock.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=(keep,),
        )


def stop(process: subprocess.Popen[bytes], environment: dict[str, str], hurry: Callable[[], bool]) -> None:
    """Stop `process` and all its descendants in any process group, with SIGTERM and then SIGKILL.

    Args:
        environment: the environment that they were started with, in which `CLIPTEA_ALIVE` identifies them.
        hurry: called repeatedly; once it returns true, the remaining processes are killed at once.
    """
    mark = environment[env.ALIVE.name]
    told: set[int] = set()
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := _marked(mark)) and time.monotonic() < deadline + GRACE_SECONDS:
        late = time.monotonic() > deadline or hurry()
        for member in sorted(left, key=lambda member: member.pid != process.pid):
            if late or member.pid not in told:
                told.add(member.pid)
                with suppress(psutil.Error):
                    member.send_signal(signal.SIGKILL if late else signal.SIGTERM)
        process.poll()
        time.sleep(0.05)
    process.poll()


def _marked(mark: str) -> list[psutil.Process]:
    processes = psutil.process_iter(["environ"])
    return [p for p in processes if (p.info["environ"] or {}).get(env.ALIVE.name) == mark and p.pid != os.getpid()]
