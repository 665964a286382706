"""The workflows of continuous integration, and the scripts that they run. Linters check them without a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCRIPTS = sorted([*(ROOT / "tests/e2e").glob("*.sh"), *(ROOT / "docker").glob("*.sh"), ROOT / ".ci/run"])
TOOLS = Path(sys.executable).parent

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def run(tool, *arguments):
    done = subprocess.run([TOOLS / tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"].values()


def commands(path):
    """Every command line of the workflow."""
    return [line for job in jobs(path) for step in job["steps"] for line in step.get("run", "").splitlines()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script):
    run("shellcheck", "--external-sources", "--source-path=SCRIPTDIR", script)


def test_zizmor():
    run("zizmor", "--offline", "--no-progress", *WORKFLOWS)


@each_workflow
def test_the_schema(path):
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


@each_workflow
def test_a_workflow_may_only_read_and_ends_in_time(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    assert "secrets." not in path.read_text()
    for job in jobs(path):
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 180


@each_workflow
def test_actions_are_pinned_by_commit_and_say_their_version(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


@each_workflow
def test_what_a_workflow_runs_exists(path):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(path):
        first, *rest = command.split()
        if first == "make":
            assert rest[0] in targets
        elif first != "docker":
            script = ROOT / first
            assert script.stat().st_mode & 0o111, f"{script} is not executable"


def test_the_end_to_end_workflow_runs_every_script():
    (path,) = [path for path in WORKFLOWS if path.name == "e2e.yml"]
    ran = [command for command in commands(path) if command.startswith("tests/e2e/")]
    assert sorted(ran) == [f"tests/e2e/{script.name}" for script in SCRIPTS if script.parent.name == "e2e" and
                           script.name != "environment.sh"]  # fmt: skip
    order = [ran.index(f"tests/e2e/{name}.sh") for name in ("cluster", "install", "smoke", "skip", "cancel", "evict")]
    assert order == sorted(order)
