"""The device for tensors, and the number of threads."""

from __future__ import annotations

import torch

from cliptea import env

__all__ = ["allow_tf32", "best", "prepare"]


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
