"""Ends processes that would wait forever: children of an ended process, and work that has come to a halt.

Work has halted if for CLIPTEA_STALL_MINUTES nothing was reported (`alive`), and this process and its children have
hardly used a processor, and hardly read or written. Work that is only slow does one of these: compiling and clustering
use a processor, downloads are written, and requests and waiting for a server are reported. A loop without end also uses
a processor. So work has halted as well if it has reported, read and written nothing for `SILENT_LIMITS` times as long.

Training processes pass their reports on to the process that started them. The reports of other children do not reach
the watchdog of their parent, so it is always more patient than they may be with a server.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cliptea import env
from cliptea.exit_codes import ExitCode

__all__ = ["alive", "aside", "follow_parent", "guarded", "inherited", "kill_children", "passed_on", "stall_seconds"]

DEFAULT_MINUTES = 30.0
SILENT_LIMITS = 8  # so many times the limit, work may use a processor and do nothing else: four hours by default
LOOK_SECONDS = 60.0  # between two looks, at most
BUSY_SHARE = 0.02  # of one processor; less is what heartbeats need
# Read or written per second; sockets do not count. In MLflow's local database, system metrics take up to 18 kB per
# second on a machine with eight GPUs.
BUSY_BYTES = 1 << 15
OUTAGE_SECONDS = 300.0  # the limit exceeds the patience with a server by at least this
TELL_SECONDS = 20.0  # how long the report of a halt may take
STACK_SECONDS = 3.0  # how long children may take to write their stacks
PARENT_SECONDS = 1.0

_alive = 0.0  # until when the work counts as alive, on the monotonic clock
_here = threading.local()  # has `aside` in the threads of `aside`


def alive(seconds: float = 0.0) -> None:
    """Report progress, or an intended pause of that many seconds. Nothing happens in the threads of `aside`."""
    global _alive
    if hasattr(_here, "aside"):
        return
    _alive = max(_alive, time.monotonic() + seconds)
    if pulse := env.PULSE.get():
        until = time.time() + seconds
        with suppress(OSError):  # the process that reads it has ended
            os.utime(pulse, (until, max(until, Path(pulse).stat().st_mtime)))


def aside(name: str, target: Callable[..., None], *given: Any) -> threading.Thread:
    """Start a daemon thread that only tells others of the work. Its own requests are no progress of the work."""

    def run() -> None:
        _here.aside = True
        target(*given)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def passed_on(pulse: Path) -> None:
    """Take over what other processes have reported with `alive`, whose CLIPTEA_PULSE is this file."""
    global _alive
    with suppress(OSError):
        ahead = pulse.stat().st_mtime - time.time()
        _alive = max(_alive, time.monotonic() + ahead)


def stall_seconds() -> float:
    """After how many seconds work has halted; 0 for never.

    Raises:
        ConfigError: CLIPTEA_STALL_MINUTES is not a number from 0 to `env.MOST`.
    """
    minutes = env.STALL_MINUTES.number()
    return 60 * (DEFAULT_MINUTES if minutes is None else minutes)


@contextmanager
def guarded(tell: Callable[[str], None], patience: float) -> Iterator[None]:
    """End this process with `ExitCode.STALLED`, and its children, if the work inside the block halts.

    The stacks of all their threads are written to stderr first.

    Args:
        tell: called with a description of the halt.
        patience: how many seconds a child may wait for a server, which it cannot report to this process.

    Raises:
        ConfigError: CLIPTEA_STALL_MINUTES is not a number from 0 to `env.MOST`.
    """
    seconds = stall_seconds()
    over, ending = threading.Event(), threading.Lock()
    if seconds:
        seconds = max(seconds, patience + OUTAGE_SECONDS)
        faulthandler.enable(file=2)  # so that SIGABRT shows the stacks, also in forks
        given = (seconds, over, ending, tell)
        threading.Thread(target=_watch, args=given, name="cliptea-watchdog", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        ending.acquire()  # never, if the watchdog is ending the children and this process: what they did does not count


def _watch(seconds: float, over: threading.Event, ending: threading.Lock, tell: Callable[[str], None]) -> None:
    look = min(LOOK_SECONDS, seconds / 10)
    idle, silent, last, family, own = 0.0, 0.0, time.monotonic(), _work(_children()), _work([os.getpid()])
    while not over.wait(look):
        # This process is measured first here and last below, so that the looks themselves do not count.
        now, own_now, family_now = time.monotonic(), _work([os.getpid()]), _work(_children())
        passed = now - last
        share, size = (abs(new - old) / passed for new, old in zip(own_now, own, strict=True))
        more = [abs(new - old) / passed for new, old in zip(family_now, family, strict=True)]
        moves = _alive >= last or size + more[1] > BUSY_BYTES
        busy = moves or share + more[0] > BUSY_SHARE
        step = min(passed, 2 * look)  # a process that was frozen for long has not been idle for long
        idle, silent = 0.0 if busy else idle + step, 0.0 if moves else silent + step
        last, family, own = now, _work(_children()), _work([os.getpid()])
        halt = ""
        if idle >= seconds:
            halt = f"nothing was computed, read or written for {seconds / 60:g} minutes"
        elif silent >= SILENT_LIMITS * seconds:
            halt = f"nothing was reported, read or written for {SILENT_LIMITS * seconds / 60:g} minutes"
        if halt and ending.acquire(blocking=False):
            try:
                _end(halt, tell)
            finally:
                os._exit(ExitCode.STALLED)


def _children() -> list[int]:
    import psutil

    with suppress(psutil.Error, OSError):  # this process may not see others, or may not open more files
        return [child.pid for child in psutil.Process().children(recursive=True)]
    return []


def _work(processes: list[int]) -> tuple[float, float]:
    """Processor seconds of processes and of their children that have ended, and the bytes that they read and wrote."""
    import psutil

    seconds = size = 0.0
    for process in processes:
        with suppress(psutil.Error, AttributeError, OSError):  # it has ended; or this system does not count bytes
            known = psutil.Process(process)
            seconds += sum(known.cpu_times()[:4])
            counted: Any = known.io_counters()  # typed without the fields of Linux
            size += counted.read_chars + counted.write_chars
    return seconds, size


def _end(halt: str, tell: Callable[[str], None]) -> None:
    faulthandler.dump_traceback(file=2, all_threads=True)
    kill_children(STACK_SECONDS)
    text = (
        f"{halt}; expected progress; the stacks of all threads are in the log; run again to resume, or raise "
        f"{env.STALL_MINUTES.name} if it is only slow"
    )
    telling = threading.Thread(target=tell, args=(text,), daemon=True)  # in a thread, as it may halt as well
    telling.start()
    telling.join(TELL_SECONDS)


def kill_children(stacks: float = 0.0) -> None:
    """Kill all child processes. With seconds for `stacks`, they may first write their stacks.

    Errors of the system are ignored, because the caller ends this process next.
    """
    import psutil

    with suppress(psutil.Error, OSError):
        left = psutil.Process().children(recursive=True)
        for child in left if stacks else ():
            with suppress(psutil.Error, OSError, AttributeError):  # not every system has it
                child.rlimit(psutil.RLIMIT_CORE, (0, 0))
            with suppress(psutil.Error, OSError):
                child.send_signal(signal.SIGABRT)  # which shows its stacks
        end = time.monotonic() + stacks
        while stacks and (left := [child for child in left if _runs(child)]) and time.monotonic() < end:
            time.sleep(PARENT_SECONDS / 10)
        for child in left:
            with suppress(psutil.Error, OSError):
                child.kill()


def _runs(child: Any) -> bool:
    """Whether a process runs. `wait` would take its exit code away from the code that started it."""
    import psutil

    with suppress(psutil.Error):
        return child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def inherited() -> Iterator[None]:
    """Start child processes inside that call `follow_parent`. They inherit that SIGTERM is blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Let this process outlive a SIGTERM, unless its parent sends it, but end at once when its parent has ended.

    A SIGTERM to a group of processes reaches children as well, whose work the parent may still need until it is done.
    """
    faulthandler.enable(file=2)  # for the parent's watchdog
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_follow, args=(os.getppid(),), name="cliptea-parent", daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        caught = signal.sigtimedwait({signal.SIGTERM}, PARENT_SECONDS)
        if caught is not None and caught.si_pid == parent:
            break
    os._exit(0)
