"""The compiled pipeline that is committed, submitted, and run here."""

import os
import subprocess
import sys

import pytest
import yaml
from command import SOURCES

from cliptea.errors import ClipteaError, ConfigError
from cliptea.steps.common import IMAGE
from cliptea_pipeline.compile import check_pipeline, compile_pipeline, pipeline_file


@pytest.fixture(scope="module")
def spec():
    return yaml.safe_load(pipeline_file().read_text())


def test_the_committed_file_is_current():
    assert check_pipeline() == pipeline_file()


def test_the_same_sources_give_the_same_text(tmp_path):
    texts = {compile_pipeline(output=tmp_path / name).read_bytes() for name in ("a.yaml", "b.yaml")}
    assert len(texts) == 1


def test_a_stale_file_is_refused(tmp_path):
    file = compile_pipeline(output=tmp_path / "pipeline.yaml")
    file.write_text(file.read_text().replace("preset: str", "preset: text"))
    with pytest.raises(ClipteaError, match=r"pipeline.yaml is stale; .* run `cliptea compile`"):
        check_pipeline(output=file)
    with pytest.raises(ClipteaError, match="stale"):
        check_pipeline(output=tmp_path / "missing.yaml")


@pytest.mark.parametrize("image", ["host:5000/cliptea:1.2", "host:5000/team/cliptea@sha256:0123", "cliptea:1"])
def test_the_image_is_that_of_every_step(image, tmp_path):
    spec = yaml.safe_load(compile_pipeline(image, tmp_path / "p.yaml").read_text())
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {image}


@pytest.mark.parametrize("image", ["cliptea", "cliptea:latest", "cliptea:", "host:5000/a", "host:5000/a:latest"])
def test_an_image_that_may_change_is_refused(image, tmp_path):
    with pytest.raises(ConfigError, match="a tag that is never moved"):
        compile_pipeline(image, tmp_path / "p.yaml")


def test_parameters_have_defaults(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name: p["defaultValue"] for name, p in parameters.items()} == {"preset": "demo", "overrides": []}
    assert all(p["isOptional"] for p in parameters.values())


def test_kfp_caches_nothing(spec):
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    steps = {name: task for name, task in tasks.items() if f"exec-{name}" in spec["deploymentSpec"]["executors"]}
    assert set(steps) >= {"resolve", "split", "teacher", "train", "evaluate", "compare", "promote", "finish"}
    assert all(task["cachingOptions"] == {} for task in steps.values())  # {"enableCache": true} when on


def test_finish_runs_whatever_happens(spec):
    task = spec["root"]["dag"]["tasks"]["finish"]
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_steps_install_nothing_and_hold_no_logic(spec):
    for executor in spec["deploymentSpec"]["executors"].values():
        command = "\n".join(executor["container"]["command"])
        assert "pip install" not in command
        assert len(command.splitlines()) < 45
        assert executor["container"]["image"] == IMAGE


def test_compiling_needs_neither_torch_nor_mlflow(tmp_path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cliptea_pipeline.compile import compile_pipeline\n"
        f"compile_pipeline(output=Path({str(tmp_path / 'p.yaml')!r}))\n"
        "print([name for name in ('torch', 'mlflow', 'numpy', 'open_clip') if name in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": SOURCES},
    )
    assert ended.stdout.strip() == "[]"
