"""Where tensors live and how many threads work on them."""

from __future__ import annotations

import os

import torch

__all__ = ["best", "prepare"]


def prepare() -> None:
    """Hold torch to the threads that the step was given (CLIPTEA_THREADS): too many make a CPU many times slower."""
    threads = os.environ.get("CLIPTEA_THREADS")
    if threads:
        torch.set_num_threads(int(threads))


def best() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
