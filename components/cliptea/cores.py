"""The processor, how many of its cores a process may use, and how they are divided."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from cliptea import env

__all__ = ["cores", "processor", "share_cores"]

GROUPS = Path("/sys/fs/cgroup")  # the control groups of this process, as in a pod


def cores(groups: Path = GROUPS) -> int:
    """Number of processor cores that this process may use, from its affinity and its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of version 2, of version 1
        try:
            limit, period = map(int, " ".join((groups / file).read_text() for file in files).split())
        except (OSError, ValueError):  # there are no control groups of this version, or there is no limit ("max")
            continue
        if limit > 0 and period > 0:  # version 1 has the limit -1 if there is none
            return max(1, min(count, limit // period))
    return count


def processor() -> str:
    """The processor's name, or its architecture where the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def share_cores(tasks: int) -> None:
    """Set the number of threads for this process and its child processes, of which `tasks` run at the same time.

    Without this, torch starts a thread for each core of the machine, even in a pod that may only use a few of them.
    Lower limits of the user apply.
    """
    share = max(1, cores() // tasks)
    limits = [variable.get() for variable in (env.THREADS, env.OMP_NUM_THREADS)]
    threads = min([share, *(int(limit) for limit in limits if limit.isdigit() and int(limit) > 0)])
    env.THREADS.set(str(threads))
    env.OMP_NUM_THREADS.set(str(threads))
    if "torch" in sys.modules:  # a fork of a process that imported torch, which reads the environment on import
        sys.modules["torch"].set_num_threads(threads)
