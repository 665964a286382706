"""The whole pipeline with its store in S3, signatures enforced, and no secret in anything that it leaves behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from storage.s3_server import ACCESS, BUCKET, SECRET, running

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "MLFLOW_TRACKING_PASSWORD": "a-planted-password",
    "KFP_TOKEN": "a-planted-token",
}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The work directory, the server's folder, and the outputs of two runs."""
    folder = tmp_path_factory.mktemp("run")
    bucket = folder / "server"
    with running(bucket) as host:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CLIPTEA_"))}
        environment |= PLANTED | {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "CLIPTEA_S3_ENDPOINT": f"http://{host}",
            "CLIPTEA_STORE": f"s3://{BUCKET}/runs",
            "CLIPTEA_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("components", "pipeline")),
            "COLUMNS": "120",
        }
        command = [
            sys.executable,
            "-m",
            "cliptea_pipeline.cli",
            "run",
            "--preset",
            "smoke",
            "--workdir",
            str(folder / "w"),
        ]
        runs = [
            subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
            for _ in range(2)
        ]
    return folder, runs


def test_a_run_on_s3_ends_well_and_is_reused(ended):
    folder, (first, second) = ended
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr + second.stderr
    assert "0 steps reused, 12 made" in first.stdout
    assert "12 steps reused, 0 made" in second.stdout
    assert len(json.loads((folder / "w/results.json").read_text())) == 5
    assert not (folder / "w/store").exists() or not any((folder / "w/store").rglob("*.tar"))
    assert list((folder / "server" / BUCKET / "runs").rglob("*.tar"))


def test_no_secret_is_left_anywhere(ended):
    folder, runs = ended
    found = [
        (path, name)
        for path in folder.rglob("*")
        if path.is_file()
        for name, secret in PLANTED.items()
        if secret.encode() in path.read_bytes()
    ]
    assert found == []
    assert not [name for run in runs for name, secret in PLANTED.items() if secret in run.stdout + run.stderr]
