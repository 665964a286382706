"""Freed memory of tensors is kept, so that the system need not clear it again for each new tensor."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from cliptea import device
from cliptea.models import build_student
if sys.argv[1] == "prepared":
    device.prepare()
student = build_student("demo_fpn", 512)
def step():
    student(torch.randn(8, 3, 32, 32)).square().mean().backward()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library has mallopt")
def test_training_clears_less_memory() -> None:
    prepared, plain = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True, text=True).stdout)
        for how in ("prepared", "plain")
    )  # faults of pages, which the system clears
    assert prepared < plain / 4
