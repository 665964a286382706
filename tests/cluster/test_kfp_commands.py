"""kfp's own commands, as docs/cluster.md names them: what they send, and what they cannot."""

import shlex
import subprocess
import sys
from pathlib import Path

from cliptea_pipeline.compile import pipeline_file

RECURRING = (
    "recurring-run create --job-name weekly --experiment-name cliptea --cron-expression '0 0 3 * * 0' "
    "--enabled --no-catchup --pipeline-id {pipeline}"
)


def kfp(line: str) -> subprocess.CompletedProcess:
    """Run a command of kfp with the endpoint of the environment."""
    tool = Path(sys.executable).parent / "kfp"
    return subprocess.run([tool, *shlex.split(line)], capture_output=True, text=True, check=False)


def test_a_run_of_the_file_has_typed_parameters(pipelines):
    done = kfp(f"run submit -e cliptea -f {pipeline_file()} preset=smoke 'overrides=[\"seeds=2\"]' skip_unchanged=true")
    assert done.returncode == 0, done.stderr
    (run,) = pipelines.held["runs"]
    assert run["runtime_config"]["parameters"] == {"preset": "smoke", "overrides": ["seeds=2"], "skip_unchanged": True}
    assert set(run["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}
    assert pipelines.held["versions"] == []  # so that no schedule finds it
    assert kfp(f"run submit -f {pipeline_file()}").returncode != 0  # no experiment


def test_a_recurring_run_has_texts_only_and_keeps_its_version(pipelines):
    assert kfp(f"pipeline create -p cliptea {pipeline_file()}").returncode == 0
    (pipeline,) = (item["pipeline_id"] for item in pipelines.held["pipelines"])
    assert kfp(f"pipeline create-version -n cliptea -v 1 {pipeline_file()}").returncode == 0
    _, version = (item["pipeline_version_id"] for item in pipelines.held["versions"])  # `create` makes one, too
    command = RECURRING.format(pipeline=pipeline)
    assert "both `pipeline_id` and `version_id` are required" in kfp(command).stderr
    done = kfp(f"{command} --version-id {version} preset=smoke 'overrides=[\"seeds=2\"]'")
    assert done.returncode == 0, done.stderr
    (schedule,) = pipelines.held["recurringruns"]
    assert schedule["pipeline_version_reference"]["pipeline_version_id"] == version
    parameters = schedule["runtime_config"]["parameters"]
    assert parameters == {"preset": "smoke", "overrides": '["seeds=2"]'}  # a text, which is no list
