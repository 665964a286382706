"""`docker/build.sh` with builders that only write down how they were called."""

import os
import subprocess
from pathlib import Path

import pytest

from cliptea import __version__

SCRIPT = Path(__file__).parents[2] / "docker/build.sh"


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Run the script with some builders on the path; returns exit code, calls and error output."""
    for name in ("BUILDER", "BASE", "TORCH_INDEX", "PIP_CONF", "BUILD_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sed", "git", "dirname", "sh"):  # all that the script needs
        tools.joinpath(name).symlink_to(next(p for d in os.get_exec_path() if (p := Path(d) / name).exists()))

    def run(*images, builders=("docker",), daemon=True, **environment):
        log = tmp_path / "calls"
        log.unlink(missing_ok=True)
        for name in builders:
            broken = "" if daemon else '[ "$1" = info ] && exit 1\n'
            tools.joinpath(name).write_text(f'#!/bin/sh\n{broken}[ "$1" = info ] || echo {name} "$@" >> {log}\n')
            tools.joinpath(name).chmod(0o755)
        done = subprocess.run(
            [SCRIPT, *images], env={"PATH": str(tools), **environment}, capture_output=True, text=True, check=False
        )
        return done.returncode, log.read_text().splitlines() if log.exists() else [], done.stderr

    return run


def test_docker(build):
    code, (call,), _ = build("cpu")
    assert code == 0
    assert call.startswith("docker build --target cpu ")
    assert f"--tag cliptea:{__version__} " in call
    assert f"--build-arg VERSION={__version__} " in call
    assert "BASE=" not in call
    assert "TORCH_INDEX" not in call
    assert "--secret" not in call


def test_buildah_where_docker_has_no_daemon(build):
    assert build(builders=("docker", "buildah"), daemon=False)[1][0].startswith("buildah bud ")


def test_all_images_and_their_tags(build):
    _, calls, _ = build("cpu", "cuda", "mlflow")
    tags = [call.split("--tag ")[1].split()[0] for call in calls]
    assert tags == [f"cliptea:{__version__}", f"cliptea:{__version__}-cuda", f"cliptea-mlflow:{__version__}"]


def test_settings(build):
    _, (call,), _ = build("cpu", BASE="b:1@sha256:2", TORCH_INDEX="file:///wheels", PIP_CONF="/p", BUILD_FLAGS="--x y")
    assert call.startswith("docker build --x y ")
    assert "--build-arg BASE=b:1@sha256:2 --build-arg TORCH_INDEX=file:///wheels --secret id=pip,src=/p" in call


@pytest.mark.parametrize(
    ("images", "given", "says"),
    [
        (("gpu",), {}, "error: the image gpu does not exist; expected cpu, cuda or mlflow\n"),
        (("cpu", "gpu"), {}, "error: the image gpu does not exist; expected cpu, cuda or mlflow\n"),
        ((), {"BUILDER": "docker", "daemon": False}, "error: docker does not run here; start it, or set BUILDER=build"),
        ((), {"BUILDER": "buildah"}, "error: there is no buildah here; install it, or set BUILDER=docker\n"),
        ((), {"BUILDER": "kaniko"}, "error: BUILDER=kaniko; expected docker or buildah\n"),
        ((), {"builders": ()}, "error: neither a docker that runs nor buildah is here; install one of them\n"),
    ],
)
def test_errors(build, images, given, says):
    code, calls, error = build(*images, **given)
    assert (code, calls, error.startswith(says), error.count("\n")) == (1, [], True, 1)
