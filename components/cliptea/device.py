"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import torch

from cliptea import env

__all__ = ["allow_tf32", "best", "prepare"]


def prepare() -> None:
    """Hold torch to the threads that the step was given (CLIPTEA_THREADS): too many make a CPU many times slower."""
    if threads := env.THREADS.count():
        torch.set_num_threads(threads)


def allow_tf32(allowed: bool) -> None:
    """Whether float32 products and convolutions of a GPU may round their factors to 10 bits, for speed."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def best() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
