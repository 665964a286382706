"""A disk that is full at any moment ends a run with one clear line, and the run goes on when there is more space."""

import json
import math
import os
import shutil
import subprocess
import sys

import pytest

GROWTH = 1.15  # of the disk, from run to run
COMMAND = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--preset", "smoke"]
ONE = ["--set", "variants=[backbones/demo_fpn]"]
KIB = 1024
FIRST, MOST = 300, 300_000  # KiB of the disk

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk, or changes its size in KiB. Nothing else is written to it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        options = f"{'remount,' if os.path.ismount(folder) else ''}size={size}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"this machine mounts no disk for a test: {done.stderr.strip()}")
        return folder

    yield resize
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def run(folder):
    """The smoke preset with its work directory, cache and temporary files in the folder."""
    (folder / "tmp").mkdir(exist_ok=True)
    own = {
        "CLIPTEA_CACHE": str(folder / "cache"),
        "CLIPTEA_THREADS": "1",
        "TMPDIR": str(folder / "tmp"),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [*COMMAND, *ONE, "--workdir", str(folder / "work")]
    return subprocess.run(command, check=False, env=inherited | own, capture_output=True, text=True, timeout=600)


def scores(folder):
    rows = json.loads((folder / "work/results.json").read_text())
    return [(row["variant"], row["pAcc"], row["miou_seen"], row["miou_unseen"], row["hiou"]) for row in rows]


def used(folder):
    """KiB in the files of a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) // KIB


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of a run that had enough space."""
    folder = tmp_path_factory.mktemp("calm")
    ended = run(folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder


def fill(disk, calm, sizes, at_least):
    """Run again and again while the disk grows. Every run ends in one line, and the last one with the same scores."""
    failed, wrong = 0, []
    for size in sizes:
        folder = disk(size)
        ended = run(folder)
        if ended.returncode == 0:
            break
        failed += 1
        output = ended.stdout + ended.stderr
        last = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        if "Traceback" in output or not any("disk" in line and "full" in line for line in last):
            wrong.append(f"{size} KiB: {ended.returncode}: {output}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert scores(folder) == scores(calm)
    print(f"{failed} runs met a full disk, up to {size} KiB")
    assert failed >= at_least
    assert not wrong, "\n".join(wrong)


def test_a_run_survives_a_disk_that_is_full_at_every_write(calm, disk):
    """The teacher's training needs most of the space, since it keeps a checkpoint."""
    steps = range(int(math.log(MOST / FIRST) / math.log(GROWTH)))
    fill(disk, calm, [int(FIRST * GROWTH**step) for step in steps], at_least=20)


def test_a_run_whose_teacher_is_ready_survives_a_disk_that_is_full_at_every_write(calm, disk):
    """What comes after the teacher needs less space, so it only meets a full disk if the teacher is there."""
    folder = disk(MOST)
    for name in ("cliptea.json", "store/demo-teacher"):
        source, target = calm / "work" / name, folder / "work" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    ready, whole = used(folder), used(calm)
    step = (whole - ready) // 12
    fill(disk, calm, range(ready + step, 4 * whole, step), at_least=10)
