"""Every test of this folder draws the same inputs at every run, and computes in one thread: ties are rounding."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
