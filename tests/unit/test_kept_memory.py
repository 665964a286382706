"""Freed memory of tensors is kept, so that the system need not clear it again for each new tensor."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from cliptea import device
if sys.argv[1] == "prepared":
    device.prepare()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones(1 << 22)  # 16 MiB, or 4,096 pages
before = faults()
for _ in range(10):
    torch.ones(1 << 22)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has mallopt")
def test_memory_is_cleared_once() -> None:
    prepared, plain = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True, text=True).stdout)
        for how in ("prepared", "plain")
    )
    assert prepared < 4_096
    assert plain > 10 * 4_000
