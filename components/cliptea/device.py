"""The device for tensors, the number of threads, and the memory that is kept for tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cliptea import env
from cliptea.errors import ConfigError
from cliptea.messages import number_of

__all__ = ["Beside", "allow_tf32", "best", "chosen", "done_so_far", "every", "prepare"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # options of mallopt, from malloc.h of the GNU C library
PIECE = 32 << 20  # bytes; larger tensors are mapped on their own, so that their memory cannot be fragmented
KEPT = 256 << 20  # bytes


def prepare() -> None:
    """Prepare a process for long work with tensors.

    Torch is limited to the threads of the step (CLIPTEA_THREADS), because too many threads make a CPU much slower.
    The GNU C library keeps freed memory for the next tensors. By default, it returns more of it to the system, which
    has to clear it each time; that took 20 % of the time of the demo's training steps on a CPU.
    Float32 is exact, also on a GPU.

    Raises:
        ConfigError: the placement gives this step GPUs (CLIPTEA_GPUS), and this process sees none.
    """
    _require_gpus(env.GPUS.count() or 0)
    allow_tf32(False)
    if threads := env.THREADS.count():
        torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, PIECE)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def _require_gpus(wanted: int) -> None:
    """Without this check, a step whose GPU cannot be used would compute on the CPU for days."""
    if not wanted:
        return
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen == 0:
        raise ConfigError(
            f"torch can use 0 of the {number_of(wanted, 'GPU')} that the placement gives to this step",
            "an image with CUDA, and nodes with a driver that is new enough for it and the device plug-in of the GPUs",
            "correct the image or the nodes, or set gpus: 0 in the placement to compute on the CPU",
        )
    if seen < wanted:  # CUDA shows a process one MIG slice, and one GPU for all of its time-shared replicas
        from cliptea import progress  # not among the code that MLflow keeps with a model

        progress.warn(
            f"torch sees {seen} of the {wanted} GPUs that the placement gives to this step, and only uses those; "
            "of MIG slices and time-shared GPUs, a process sees one, so set gpus: 1 in the placement"
        )


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions on a GPU may round their factors to 10 bits for speed (TF32).

    By default, torch allows it for convolutions.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def best() -> torch.device:
    """The GPU if there is one, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def every() -> list[torch.device]:
    """All GPUs, or the CPU. The first one is `best`."""
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())] or [torch.device("cpu")]


def chosen(name: str | None) -> list[torch.device]:
    """The device that a user names, or every one.

    Raises:
        ConfigError: this machine has no such device.
    """
    if name is None:
        return every()
    found = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    known = ["cpu", *(["cuda"] if found else []), *found]
    if name not in known:
        raise ConfigError(f"this machine has no device {name}", f"one of {', '.join(known)}", "change --device")
    return [torch.device(name)]


def done_so_far() -> torch.cuda.Event | None:
    """A CUDA event that follows all GPU work that this thread has queued so far, for `Beside.after`; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event


class Beside:
    """A CUDA stream for the work of another thread, beside that of the main thread. On a CPU, it makes no difference.

    It has a higher priority than the main stream, because its work is short and often waited for.
    """

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream(priority=-1) if torch.cuda.is_available() else None

    @contextmanager
    def after(self, others: torch.cuda.Event | None) -> Iterator[None]:
        """Run the work of this context after that of the other thread, and wait for it at the end.

        Because of that, tensors of the other thread may be freed at the end.
        """
        if self._stream is None or others is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(others)
            try:
                yield
            finally:
                self._stream.synchronize()
