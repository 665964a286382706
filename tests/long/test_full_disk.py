"""A disk that is full at any moment ends a run with one clear line, and the run goes on when there is more space."""

import json
import os
import subprocess
import sys

import pytest

SIZES = 40  # of the disk, from nearly nothing to enough
COMMAND = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--preset", "smoke"]
ONE = ["--set", "variants=[backbones/demo_fpn]"]
KIB = 1024

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
        "CLIPTEA_THREADS": "2",
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


def test_a_run_survives_a_disk_that_is_full_at_every_write(tmp_path, disk):
    calm = tmp_path / "calm"
    calm.mkdir()
    ended = run(calm)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    most = used(calm)

    failed, wrong = 0, []
    for number in range(1, 3 * SIZES):
        size = number * most // SIZES
        folder = disk(size)
        ended = run(folder)
        if ended.returncode == 0:
            break
        failed += 1
        output = ended.stdout + ended.stderr
        last = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        if "Traceback" in output or not any("disk" in line and "full" in line for line in last):
            wrong.append(f"{size} KiB of {most}: {ended.returncode}: {output}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert scores(folder) == scores(calm)
    assert failed >= SIZES // 2
    assert not wrong, "\n".join(wrong)
