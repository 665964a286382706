"""The compiled pipeline that is committed, submitted, and run here."""

import ast
import builtins
import errno
import json
import os
import subprocess
import symtable
import sys

import pytest
import yaml
from command import ROOT, SOURCES
from compiled import compiled_text
from typer.testing import CliRunner

from cliptea.errors import ClipteaError, ConfigError
from cliptea.steps.component import IMAGE
from cliptea_pipeline import compile as compiling
from cliptea_pipeline.cli import app
from cliptea_pipeline.compile import check_pipeline, compile_pipeline, pipeline_file
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.placement_file import read_placement


@pytest.fixture(scope="module")
def spec():
    return next(yaml.load_all(pipeline_file().read_text(), yaml.CSafeLoader))


def compiled(**placement):
    """The specification and the Kubernetes part of a pipeline, the latter by executor."""
    spec, platform = yaml.load_all(compiled_text(placement), yaml.CSafeLoader)
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


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


@pytest.mark.parametrize("image", ["host:5000/cliptea:1.2", f"host:5000/team/cliptea@sha256:{'0' * 64}", "cliptea:1"])
def test_the_image_is_that_of_every_step(image):
    spec, _ = compiled(image=image)
    executors = spec["deploymentSpec"]["executors"].values()
    assert {executor["container"]["image"] for executor in executors} == {image}


@pytest.mark.parametrize("image", ["cliptea", "cliptea:latest", "host:5000/a", "host:5000/a:latest"])
def test_an_image_that_may_change_is_refused(image):
    with pytest.raises(ConfigError, match="a tag that never moves"):
        compiled(image=image)


@pytest.mark.parametrize(
    "image",
    [
        "REGISTRY/cliptea:0.1.0",
        "IMAGE@sha256:...",
        "host/a@sha256:0123",
        "a b:1",
        "host/a:1/",
        "host/:1",
        "cliptea:",
        "https://a:1",
    ],
)
def test_an_image_that_no_node_can_name_is_refused(image):
    with pytest.raises(ConfigError, match="is not a valid image name; expected host/path in lower case"):
        compiled(image=image)


def test_parameters_have_defaults(spec):
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    defaults = {"preset": "demo", "config": "", "overrides": [], "skip_unchanged": False, "part": ""}
    assert {name: p["defaultValue"] for name, p in parameters.items()} == defaults
    assert all(p["isOptional"] for p in parameters.values())


def test_kfp_caches_nothing(spec):
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    steps = {name: task for name, task in tasks.items() if f"exec-{name}" in spec["deploymentSpec"]["executors"]}
    assert set(steps) >= {"resolve", "split", "tokens", "teacher", "train", "evaluate", "compare", "promote", "finish"}
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


STEPS = list(Placement().steps.model_fields_set | set(type(Placement().steps).model_fields))
GPU = {
    "launcher": "trainjob",
    "store": "s3://bucket/folder",
    "image_pull_secrets": ["pull"],
    "train_job": {"nodes": 2},
    "steps": {
        "train": {
            "gpus": 4,
            "shared_memory": "8Gi",
            "node_selector": {"gpu": "yes"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        }
    },
}


KNOWN = {*dir(builtins), "dsl", "List"}  # to a compiled step: kfp imports `dsl` and all of `typing` in front of it


def component_sources():
    """The source of each function that `@step()` makes a component, by name; as kfp takes it, without the decorator."""
    for file in sorted((ROOT / "components/cliptea/steps").glob("*.py")):
        text = file.read_text()
        for function in ast.parse(text).body:
            marks = getattr(function, "decorator_list", [])
            if any(isinstance(mark, ast.Call) and ast.unparse(mark.func) == "step" for mark in marks):
                yield function.name, ast.get_source_segment(text, function)


def read_from_outside(source):
    """The names that a function and its annotations read and that are bound nowhere in it."""
    tables = [symtable.symtable(source, "step", "exec")]
    for table in tables:
        tables.extend(table.get_children())
    symbols = [symbol for table in tables for symbol in table.get_symbols()]
    return {symbol.get_name() for symbol in symbols if symbol.is_global() and symbol.is_referenced()}


def test_a_compiled_step_reads_nothing_of_its_module():
    """kfp takes only the source of the function, so an import at the top of its file is not there when it runs."""
    sources = dict(component_sources())
    assert set(sources) >= {*STEPS, "launch"}
    missing = {name: read_from_outside(source) - KNOWN for name, source in sources.items()}
    assert {name: names for name, names in missing.items() if names} == {}


def test_every_step_has_a_placement(spec):
    executors = {name.removeprefix("exec-") for name in spec["deploymentSpec"]["executors"]}
    assert executors == set(STEPS)


def test_every_step_has_resources_a_time_out_secrets_and_no_root(spec):
    _, executors = compiled()
    for step in STEPS:
        resources = spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["resources"]
        assert set(resources) >= {"cpuRequest", "cpuLimit", "memoryRequest", "memoryLimit"}
        own = executors[f"exec-{step}"]
        assert int(own["activeDeadlineSeconds"]) > 0
        assert own["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        names = [item["envVar"] for source in own["secretAsEnv"] for item in source["keyToEnv"]]
        assert {"AWS_SECRET_ACCESS_KEY", "CLIPTEA_S3_ENDPOINT", "MLFLOW_TRACKING_URI"} <= set(names)
        assert all(source["optional"] for source in [*own["secretAsEnv"], *own["configMapAsEnv"]])
        names += [item["envVar"] for source in own["configMapAsEnv"] for item in source["keyToEnv"]]
        assert len(names) == len(set(names))


def test_shared_memory_of_those_that_load_data_in_processes():
    _, executors = compiled(steps={"train": {"shared_memory": "7Gi"}})
    mount = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "7Gi"}
    assert executors["exec-train"]["emptyDirMounts"] == [mount]
    assert "emptyDirMounts" not in executors["exec-compare"]


def test_steps_are_tried_again_and_again_later(spec):
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    policies = {name: task.get("retryPolicy") for dag in dags for name, task in dag["tasks"].items()}
    assert policies["split"] == {
        "maxRetryCount": 2,
        "backoffDuration": "30s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "600s",
    }
    assert policies["finish"] is None


RETRIES = '{"count":2,"wait_seconds":30,"factor":2.0,"longest_wait_seconds":600}'


def test_every_step_is_told_how_to_try_again_itself(spec):
    executors = spec["deploymentSpec"]["executors"]
    assert "exec-finish" in executors
    for name, executor in executors.items():
        given = {item["name"]: item["value"] for item in executor["container"]["env"]}
        assert (given["CLIPTEA_RETRIES"], given["CLIPTEA_PATIENCE"]) == (RETRIES, "600"), name


def container(spec):
    return spec["deploymentSpec"]["executors"]["exec-split"]["container"]


def test_the_store_is_written_in_or_comes_from_the_config_map():
    spec, executors = compiled(store="s3://bucket/folder", environment={"SSL_CERT_FILE": "/ca.pem"})
    environment = {item["name"]: item["value"] for item in container(spec)["env"]}
    assert environment == {
        "CLIPTEA_IMAGE": container(spec)["image"],
        "CLIPTEA_RETRIES": RETRIES,
        "CLIPTEA_PATIENCE": "600",
        "CLIPTEA_STORE": "s3://bucket/folder",
        "SSL_CERT_FILE": "/ca.pem",
    }
    assert "CLIPTEA_STORE" not in str(executors)
    spec, executors = compiled()
    assert [item["name"] for item in container(spec)["env"]] == ["CLIPTEA_IMAGE", "CLIPTEA_RETRIES", "CLIPTEA_PATIENCE"]
    assert "CLIPTEA_STORE" in str(executors["exec-split"]["configMapAsEnv"])


def test_the_launcher_of_trainjobs_hands_its_placement_on():
    spec, executors = compiled(**GPU)
    assert "exec-train" not in executors
    passed = {
        item["field"]: item.get("applyToTask", False)
        for item in spec["components"]["comp-launch"]["taskConfigPassthroughs"]
    }
    assert passed == {
        "RESOURCES": False,
        "ENV": True,
        "KUBERNETES_NODE_SELECTOR": False,
        "KUBERNETES_TOLERATIONS": False,
        "KUBERNETES_AFFINITY": False,
        "KUBERNETES_VOLUMES": True,
    }
    own = executors["exec-launch"]
    assert own["nodeSelector"] == {"labels": {"gpu": "yes"}}
    assert own["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert own["imagePullSecret"][0]["secretName"] == "pull"
    assert "emptyDirMounts" not in own
    assert "activeDeadlineSeconds" not in own  # it may wait in a queue; the TrainJob has the limit
    loop = next(c["dag"] for c in spec["components"].values() if "launch" in c.get("dag", {}).get("tasks", {}))
    settings = loop["tasks"]["launch"]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]
    assert (settings["nodes"], settings["processes_per_node"], settings["shared_memory"]) == (2, 4, "8Gi")
    assert settings["image_pull_secrets"] == ["pull"]
    assert settings["seconds"] == read_placement(None).steps.train.seconds
    tasks = [task for c in spec["components"].values() for task in c.get("dag", {}).get("tasks", {}).values()]
    # Each may need all nodes, and two that have half of theirs would wait for each other.
    assert [task["iteratorPolicy"] for task in tasks if "iteratorPolicy" in task] == [{"parallelismLimit": 1}]


def test_clips_work_is_divided_among_tasks():
    spec, _ = compiled(token_parts=3)
    dags = [c["dag"] for c in spec["components"].values() if "dag" in c]
    loop = next(dag["tasks"]["tokens"] for dag in dags if "tokens" in dag["tasks"])
    assert loop["inputs"]["parameters"]["parts"]["runtimeValue"]["constant"] == 3
    tasks = [task for dag in dags for task in dag["tasks"].values()]
    loops = [json.loads(task["parameterIterator"]["items"]["raw"]) for task in tasks if "raw" in str(task)]
    assert loops == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        ({"foo": 1}, "unknown key foo; expected one of image, store,"),
        ({"steps": {"train": {"gpu": 1}}}, "unknown key steps.train.gpu; expected one of cpu, cpu_limit,"),
        ({"steps": {"test": {}}}, "unknown key steps.test; expected one of resolve, split,"),
        ({"steps": {"train": {"tolerations": [{"name": 1}]}}}, "unknown key .*name; expected one of key, operator"),
        ({"steps": {"train": {"memory": "lots"}}}, "steps.train.memory: 'lots' is refused; expected bytes"),
        ({"launcher": "slurm"}, "launcher='slurm' is refused: input should be 'torchrun' or 'trainjob'"),
        ({"store": "s3://user:password@host/x"}, "store: the value holds a password"),
        ({"store": "s3://Bucket_X/a"}, "store: 's3://Bucket_X/a' is refused; expected s3://bucket/folder"),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "x"}},
            "AWS_SECRET_ACCESS_KEY looks like a secret, and the pipeline",
        ),
        ({"environment": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"environment": {"HTTPS_PROXY": "http://u:hush@p"}}, "environment.HTTPS_PROXY: the value holds a password"),
        ({"environment": {"FOO BAR": "x"}}, "'FOO BAR' is refused; expected the name of an environment variable"),
        ({"environment": {"AWS_REGION": "x"}}, "AWS_REGION appears twice in"),
        ({"environment": {"A": True}}, "environment.A=True is refused: expected text; put it in quotes"),
        (
            {"steps": {"train": {"memory": "64Gi"}}},
            "steps.train: memory 64Gi is more than memory_limit 16Gi; raise mem",
        ),
        ({"steps": {"train": {"cpu": 16}}}, "steps.train: cpu 16 is more than cpu_limit 8; raise cpu_limit"),
        ({"steps": {"train": {"shared_memory": "18G"}}}, "shared_memory 18G is more than memory_limit 16Gi"),
        (
            {"steps": {"train": {"memory": 0}}},
            "steps.train.memory: 0 is refused; expected bytes above 0, such as 512Mi",
        ),
        ({"steps": {"train": {"memory": "1K"}}}, "steps.train.memory: '1K' is refused"),
        ({"steps": {"train": {"cpu": "0m"}}}, "steps.train.cpu: '0m' is refused; expected processors above 0, such as"),
        ({"parallel": True}, "parallel=True is refused: expected a whole number"),
        ({"image_pull_secrets": ["A"]}, "image_pull_secrets.0: 'A' is refused; expected the name of an object"),
        ({"launcher": "trainjob", "train_job": {"runtime": ""}}, "train_job.runtime: '' is refused; expected the name"),
        (
            {"launcher": "trainjob", "train_job": {"processes_per_node": 4}, "steps": {"train": {"gpus": 1}}},
            "processes_per_node=4 with steps.train.gpus=1; expected one process per GPU",
        ),
        ({"train_job": {"nodes": 2}}, "train_job needs the launcher trainjob, but launcher is torchrun"),
        ({"steps": 1}, "steps=1 is refused: expected keys and values"),
    ],
)
def test_a_wrong_placement_gives_one_line(placement, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compiled(**placement)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)
    assert str(caught.value).count("placement.yaml") == 1


def test_what_looks_like_a_wrong_placement_and_is_none():
    environment = {"TOKENIZERS_PARALLELISM": "false", "HTTPS_PROXY": "http://proxy:3128"}
    compiled(environment=environment, steps={"train": {"memory": "16384Mi", "cpu": "8000m"}})


def test_a_key_that_is_there_twice(tmp_path):
    file = tmp_path / "placement.yaml"
    file.write_text("steps:\n  tokens: &gpu {gpus: 1}\n  train: {<<: *gpu, gpus: 2}\n  evaluate: {<<: *gpu}\n")
    assert read_placement(file).steps.train.gpus == 2
    file.write_text("parallel: 1\nsteps: {train: {gpus: 1, gpus: 2}}\n")
    with pytest.raises(ConfigError, match=r"placement.yaml, line 2: the key gpus appears twice"):
        read_placement(file)


def test_the_committed_file_is_not_overwritten_by_another_placement(tmp_path):
    before = pipeline_file().read_bytes()
    (tmp_path / "placement.yaml").write_text("parallel: 2\n")
    for option in (("--image", "host/cliptea:2"), ("--placement", str(tmp_path / "placement.yaml"))):
        ended = CliRunner().invoke(app, ["compile", *option])
        assert (ended.exit_code, ended.output.count("\n"), "-o FILE" in ended.output) == (2, 1, True)
    assert pipeline_file().read_bytes() == before
    ended = CliRunner().invoke(app, ["compile", "-o", str(tmp_path / "placement.yaml")])
    assert (ended.exit_code, "is not a compiled pipeline" in ended.output) == (2, True)
    assert (tmp_path / "placement.yaml").read_text() == "parallel: 2\n"


def test_the_pipeline_of_somebody_else_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_compiled", lambda placement: "new")
    own = pipeline_file().read_text()
    (tmp_path / "own.yaml").write_text(own)
    assert compile_pipeline(output=tmp_path / "own.yaml").read_text() == "new"
    for name in ("Name: theirs", "Name: cliptea-2"):
        file = tmp_path / "theirs.yaml"
        file.write_text(theirs := own.replace("Name: cliptea", name, 1))
        with pytest.raises(ConfigError, match=r"theirs.yaml exists and is not a compiled pipeline of cliptea; .* -o"):
            compile_pipeline(output=file)
        assert file.read_text() == theirs


def test_a_full_disk_leaves_the_pipeline_that_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_compiled", lambda placement: "new")
    file = tmp_path / "own.yaml"
    file.write_text(own := pipeline_file().read_text())

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClipteaError, match="disk is full"):
        compile_pipeline(output=file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"own.yaml": own}


def test_a_placement_that_is_no_placement(tmp_path):
    for text in ("[1]", "a: [", None):
        file = tmp_path / "placement.yaml"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        with pytest.raises(ConfigError, match="placement"):
            read_placement(file)


def test_nothing_after_resolve_runs_when_there_is_nothing_to_do(spec):
    handler = next(
        c["dag"]["tasks"] for c in spec["components"].values() if "resolve" in c.get("dag", {}).get("tasks", {})
    )
    (behind,) = [task for name, task in handler.items() if name != "resolve"]
    assert (
        behind["triggerPolicy"]["condition"]
        == "inputs.parameter_values['pipelinechannel--resolve-Output'] == 'changed'"
    )
