"""The exit codes of all commands, steps and training processes."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Kubernetes and shells add their own: 128 + the number of the signal that has ended a process."""

    DONE = 0
    FAILED = 1  # something went wrong, such as missing data; one line says what, and what to do
    REJECTED = 2  # a setting, an environment variable or an argument is wrong, and nothing was started
    CANCELLED = 3  # the run that `submit --wait` follows was cancelled
    RESTART = 75  # training stopped on request after a checkpoint, and goes on when it is started again
    DESERTED = 76  # a training process lost the others, or a server for too long
    STALLED = 77  # the work has halted, see CLIPTEA_STALL_MINUTES
    INTERRUPTED = 130  # Ctrl-C
