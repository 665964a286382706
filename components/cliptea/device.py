"""The device for tensors, and the number of threads."""

from __future__ import annotations

import torch

from cliptea import env
from cliptea.errors import ConfigError

__all__ = ["allow_tf32", "best", "chosen", "every", "prepare"]


def prepare() -> None:
    """Limit torch to the threads of the step (CLIPTEA_THREADS), because too many threads make a CPU much slower."""
    if threads := env.THREADS.count():
        torch.set_num_threads(threads)


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions on a GPU may round their factors to 10 bits for speed (TF32)."""
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
