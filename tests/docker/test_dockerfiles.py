"""What the Dockerfiles promise: non-root, pinned, no compiler, and nothing in the images that does not belong there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*Dockerfile"))
COMPILERS = r"\b(apt|apt-get|apk|gcc|g\+\+|clang|build-essential|make|curl|wget|git)\b"


def instructions(path):
    """Instruction and argument of each line, continuation lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", path.read_text(), flags=re.M))
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def stages(path):
    """The instructions of each stage, by its name (the last may have none)."""
    found = {}
    for name, argument in instructions(path):
        if name == "FROM":
            parent, _, alias = argument.partition(" AS ")
            found[alias] = current = list(found.get(parent, []))
        elif "current" in locals():
            current.append((name, argument))
    return found


FINAL = [(path, stage) for path in DOCKERFILES for stage in stages(path) if stage in ("cpu", "cuda", "")]


def test_the_targets():
    assert [(path.name, stage) for path, stage in FINAL] == [
        ("Dockerfile", "cuda"),
        ("Dockerfile", "cpu"),
        ("mlflow.Dockerfile", ""),
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_base_is_an_argument_pinned_by_tag(path):
    (base,) = {argument for name, argument in instructions(path) if name == "ARG" and argument.startswith("BASE=")}
    assert re.fullmatch(r"BASE=docker\.io/library/python:\d+\.\d+\.\d+-slim-\w+", base)
    parents = {argument.split()[0] for name, argument in instructions(path) if name == "FROM"}
    assert parents <= {"${BASE}", *stages(path)}


@pytest.mark.parametrize(("path", "stage"), FINAL, ids=lambda value: getattr(value, "name", value))
class TestFinal:
    def test_runs_as_a_number_that_kubernetes_can_check(self, path, stage):
        assert [argument for name, argument in stages(path)[stage] if name == "USER"] == ["1000:1000"]

    def test_installs_nothing(self, path, stage):
        runs = [argument for name, argument in stages(path)[stage] if name == "RUN"]
        assert not [argument for argument in runs if re.search(COMPILERS + r"|\bpip\b", argument)]

    def test_writes_to_tmp_only(self, path, stage):
        variables = " ".join(argument for name, argument in stages(path)[stage] if name == "ENV").split()
        assert {"HOME=/tmp", "TMPDIR=/tmp"} <= set(variables)

    def test_labels(self, path, stage):
        labels = " ".join(argument for name, argument in stages(path)[stage] if name == "LABEL")
        for key in ("title", "description", "licenses", "version", "revision", "base.name"):
            assert f"org.opencontainers.image.{key}=" in labels

    def test_the_revision_changes_no_layer_of_packages(self, path, stage):
        found = [f"{name} {argument}" for name, argument in stages(path)[stage]]
        last = max(place for place, text in enumerate(found) if text.startswith(("COPY", "RUN")))
        assert not [text for text in found[:last] if "REVISION" in text]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_versions_and_secrets_of_every_install(path):
    for name, argument in instructions(path):
        for command in re.findall(r"pip install [^&]*", argument) if name == "RUN" else []:
            if "--no-index" not in command:  # else our own wheel
                assert "--constraint constraints.txt" in command
                assert argument.startswith("--mount=type=secret,id=pip,target=/etc/pip.conf ")


def test_the_builder_gets_what_is_copied_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        source
        for path in DOCKERFILES
        for name, argument in instructions(path)
        if name == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    }
    assert copied == kept
    assert all((ROOT / source).exists() for source in kept)
