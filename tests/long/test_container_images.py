"""The images are built, and run as a cluster runs them: any user, no capability, a root that cannot be written.

Needs root, buildah, podman, runc, and CLIPTEA_TEST_BASE: a local image with Python 3.11 and its venv. Further settings
of the build are those of docker/build.sh. Without TORCH_INDEX the cpu image holds CUDA as well: 7 GB.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cliptea import __version__

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(
        "CLIPTEA_TEST_BASE" not in os.environ,
        reason="builds container images: set CLIPTEA_TEST_BASE to a local base image",
    ),
    pytest.mark.skipif(
        not all(map(shutil.which, ("buildah", "podman", "runc"))),
        reason="builds and runs container images: install buildah, podman and runc",
    ),
]
ROOT = Path(__file__).parents[2]
AS_A_POD = [
    "--read-only",
    "--tmpfs=/tmp:mode=1777",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--network=none",
]
LIMITS = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"]  # podman's own may be above the machine's


def run(image, *command, user="1000"):
    done = subprocess.run(
        ["podman", "--runtime=runc", "run", "--rm", *AS_A_POD, *LIMITS, f"--user={user}", image, *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def images():
    flags = f"--isolation chroot --pull-never {os.environ.get('BUILD_FLAGS', '')}"
    environment = os.environ | {"BUILDER": "buildah", "BASE": os.environ["CLIPTEA_TEST_BASE"], "BUILD_FLAGS": flags}
    subprocess.run(["make", "image", "IMAGES=cpu mlflow"], cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("user", ["1000", "23456"])
def test_the_steps_image(images, user):
    image = f"localhost/cliptea:{__version__}"
    assert run(image, "cliptea", "--version", user=user) == f"cliptea {__version__}\n"
    run(image, "python", "-c", "import torch, kfp, cliptea.steps, setuptools", user=user)
    assert run(image, "sh", "-c", "for c in gcc cc g++ clang make ld pip; do command -v $c; done; true") == ""
    same = "cliptea compile -o p.yaml && cmp p.yaml /opt/venv/lib/python3*/site-packages/cliptea_pipeline/cliptea.yaml"
    run(image, "sh", "-c", same)


def test_the_smoke_preset_in_the_steps_image(images):
    script = "cliptea run --preset smoke && test -s .cliptea/report.html"
    run(f"localhost/cliptea:{__version__}", "sh", "-c", script)


def test_the_mlflow_image(images):
    image = f"localhost/cliptea-mlflow:{__version__}"
    assert run(image, "mlflow", "--version").startswith("mlflow, version")
    run(image, "python", "-c", "import boto3, psycopg; assert psycopg.pq.__impl__ == 'binary'")
    run(image, "mlflow", "db", "upgrade", "sqlite:////tmp/mlflow.db")
