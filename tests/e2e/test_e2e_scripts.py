"""The scripts for a real cluster, run with stand-ins for cliptea, kubectl and others, which write down their calls."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from docs.pages import parse
from k8s.manifests import K8S, one, overlay, render

from cliptea import __version__, settings
from cliptea.cluster.job import RUN_LABEL
from cliptea_pipeline.placement_file import read_placement

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.sh") if path.name != "environment.sh")
RECORDED = ROOT / "tests/cluster/recorded"
RUN = "b7964228-d1aa-47fc-8352-37456603bb33"
PAGE = f"run http://localhost:8080/#/runs/details/{RUN}"
STAND_IN = """#!/bin/sh
called="${0##*/} $*"
printf '%s\\0' "${0##*/}" "$@" '
' >>"$CALLS" # in one write, because scripts call tools at the same time
case "$called" in
"kubectl -n kubeflow get secret "*) exit 1 ;; # there is none yet
*--from-env-file=/dev/stdin | "kubectl create --raw"*) cat >>"$SENT" ;;
"""
SCHEDULES = [{"name": "other", "id": "1"}, {"name": "e2e", "id": "2"}]
AWAIT = "until grep -q -e cancel -e eviction $CALLS; do /bin/sleep 0.05; done"
# What the tools answer: patterns of sh for a call, and what it does.
ANSWERS = {
    "cliptea --version": f"echo 'cliptea {__version__}'",
    "cliptea schedule --list --json": "echo '" + json.dumps({"schedules": SCHEDULES}) + "'",
    "cliptea submit *train.iterations=*": f"echo '{PAGE}'; {AWAIT}; exit $ENDS",
    "cliptea cancel *": "[ $2 = http://localhost:8080/#/runs/details/" + RUN + " ]",
    "cliptea *": ":",
    "curl *v2beta1/runs[?]*": "cat $LISTED",
    "curl *v2beta1/runs/*": "cat $TOLD",
    "curl *": "echo fine",
    "kubectl * get pods *jsonpath*": "echo 'cliptea-x(0).root(0).train(0).executor(0)'",
    "kubectl * get pods *": "echo pod/cliptea-demo-node-0-0-x",
    "kubectl * get trainjobs *name": "echo trainjob.trainer.kubeflow.org/cliptea-demo",
    "kubectl * logs *": "echo 'training 12/400 it'; echo 'resuming from the checkpoint at iteration 10'",
    "sleep *": "exec /bin/sleep 0.05",
}


class Called(NamedTuple):
    """How a script has ended, and what it has called."""

    ended: subprocess.CompletedProcess[str]
    calls: list[list[str]]
    sent: str  # the input of kubectl

    def of(self, tool: str) -> list[list[str]]:
        """The arguments of each call of a tool."""
        return [arguments for name, *arguments in self.calls if name == tool]


@pytest.fixture
def call(tmp_path):
    """Run a script with answers that replace the usual ones, and the exit code of `submit --wait`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tmp_path / "runs.json").write_text(json.dumps({"runs": [listed("1"), listed("2", "RUNNING"), listed("2")]}))

    def run(script, *, ends=0, told="run_skipped.json", **answers):
        chosen = {pattern: answers.get(pattern.split()[0], action) for pattern, action in ANSWERS.items()}
        cases = [f"{escaped(pattern)}) {action} ;;" for pattern, action in chosen.items()]
        for name in ("cliptea", "kubectl", "kind", "curl", "sleep"):
            (tools / name).write_text(STAND_IN + "\n".join(cases) + "\nesac\n")
            (tools / name).chmod(0o755)
        (tmp_path / "calls").write_text("")
        environment = {
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OUT": str(tmp_path / "out"),
            "CALLS": str(tmp_path / "calls"),
            "SENT": str(tmp_path / "sent"),
            "LISTED": str(tmp_path / "runs.json"),
            "TOLD": str(RECORDED / told),
            "ENDS": str(ends),
        }
        ended = subprocess.run(
            [FOLDER / script], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        calls = [one.split("\0")[:-1] for one in (tmp_path / "calls").read_text().split("\n\0")[:-1]]
        sent = (tmp_path / "sent").read_text() if (tmp_path / "sent").exists() else ""
        return Called(ended, calls, sent)

    return run


def listed(schedule, state="SUCCEEDED"):
    """A run of a schedule in the list of Pipelines."""
    return {"run_id": f"run-{schedule}-{state}", "recurring_run_id": schedule, "state": state}


def escaped(pattern):
    """A pattern of sh whose spaces are no ends of words."""
    return pattern.replace(" ", "\\ ")


ENDS = {"cancel.sh": 3}  # exit code of `submit --wait`, if it is not 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends_well_and_its_commands_are_those_of_cliptea(call, script):
    called = call(script, ends=ENDS.get(script, 0))
    assert called.ended.returncode == 0, called.ended.stdout + called.ended.stderr
    for arguments in called.of("cliptea"):
        given = parse(arguments, whole=True)
        if given.get("preset"):
            settings.load(given["preset"], given["overrides"] or [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_kubectl_is_asked_for_is_in_the_manifests(call, script):
    known = {(item["kind"].lower(), item["metadata"]["name"]) for item in overlay("local")}
    foreign = {("service", "ml-pipeline-ui")}  # of Pipelines
    for arguments in call(script, ends=ENDS.get(script, 0)).of("kubectl"):
        for before, word in zip(["", *arguments], arguments, strict=False):
            if named := re.fullmatch(r"(svc|job|deployment|statefulset)/([a-z0-9-]+)", word):
                kind = named[1].replace("svc", "service")
                assert (kind, named[2]) in known | foreign
            if before in ("-f", "-k") and word != "-" and not word.startswith("https://github.com/kubeflow/"):
                assert (ROOT / word).exists()
                assert word.startswith("k8s/overlays/local")
            if before == "-n":
                assert word in ("kubeflow", "kubeflow-system")


def test_the_secrets_have_the_keys_of_the_examples(call):
    called = call("install.sh")
    names = [arguments[5] for arguments in called.of("kubectl") if arguments[2:5] == ["create", "secret", "generic"]]
    examples = {name: (K8S / f"secrets/{name.removeprefix('cliptea-')}.env.example").read_text() for name in names}
    assert sorted(names) == ["cliptea-mlflow", "cliptea-postgres", "cliptea-s3"]
    expected = [line.partition("=")[0] for name in names for line in re.findall(r"^[A-Z].*=.*$", examples[name], re.M)]
    given = dict(line.split("=", 1) for line in called.sent.splitlines())
    assert list(given) == expected
    assert re.fullmatch("[0-9a-f]{48}", given["POSTGRES_PASSWORD"])
    assert given["POSTGRES_PASSWORD"] not in called.ended.stdout + called.ended.stderr
    assert "http://cliptea-s3:8333" in examples["cliptea-s3"]
    assert given["CLIPTEA_S3_ENDPOINT"] == "http://cliptea-s3:8333"


def test_the_account_whose_rights_are_asked_for_is_that_of_the_steps(call):
    (account,) = [word for words in call("install.sh").of("kubectl") for word in words if word.startswith("--as=")]
    (subject,) = one(overlay("local"), "RoleBinding", "cliptea-train-step")["subjects"]
    assert account == f"--as=system:serviceaccount:{subject['namespace']}:{subject['name']}"


def test_the_versions_of_kubeflow_are_those_of_the_page(call):
    calls = [" ".join(arguments) for arguments in call("cluster.sh").of("kubectl")]
    (pipelines,) = {found for text in calls for found in re.findall(r"pipelines/.*ref=(\d+\.\d+)\.\d+", text)}
    (trainer,) = {found for text in calls for found in re.findall(r"trainer/.*ref=v(\d+\.\d+)\.\d+", text)}
    page = (ROOT / "docs/cluster.md").read_text()
    assert f"stand-alone Pipelines {pipelines}, Trainer {trainer}" in page


def test_the_cluster_gets_the_images_of_the_overlay(call):
    (load,) = [arguments for arguments in call("cluster.sh").of("kind") if arguments[0] == "load"]
    rendered = yaml.safe_dump(render(K8S / "overlays/local"))
    assert set(load[4:]) == set(re.findall(r"\bimage: (cliptea\S+)", rendered))


def test_the_eviction_is_one_of_the_first_pod_of_two(call, tmp_path):
    called = call("evict.sh")
    placement = read_placement(tmp_path / "out/trainjob.yaml")
    assert (placement.launcher, placement.train_job.nodes) == ("trainjob", 2)
    assert placement.steps.train == read_placement(K8S / "overlays/local/placement.yaml").steps.train
    eviction = json.loads(called.sent)
    assert (eviction["apiVersion"], eviction["kind"]) == ("policy/v1", "Eviction")
    assert eviction["metadata"] == {"name": "cliptea-demo-node-0-0-x", "namespace": "kubeflow"}
    path = f"/api/v1/namespaces/kubeflow/pods/{eviction['metadata']['name']}/eviction"
    assert ["create", "--raw", path, "-f", "-"] in called.of("kubectl")
    words = [word for arguments in called.of("kubectl") for word in arguments]
    assert f"{RUN_LABEL}={RUN}" in words
    (pods,) = [word for word in words if word.startswith("jobset.")]
    pod = json.loads((RECORDED / "training_pods.json").read_text())["running"][0]
    labels = dict(text.split("=") for text in pods.split(","))
    assert labels.keys() <= pod["metadata"]["labels"].keys()


@pytest.mark.parametrize(
    ("script", "how", "words"),
    [
        ("cancel.sh", {"ends": 0}, "submit --wait exited with 0; expected 3"),
        ("cancel.sh", {"ends": 1}, "submit --wait exited with 1; expected 3"),
        ("skip.sh", {"told": "run_succeeded.json"}, "ended as SUCCEEDED and was not skipped"),
        ("skip.sh", {"told": "run_failed.json"}, "ended as FAILED and was not skipped"),
        ("evict.sh", {"ends": 1}, ""),
        ("smoke.sh", {"cliptea": "exit 1"}, ""),
    ],
)
def test_what_goes_wrong_fails_the_script(call, script, how, words):
    ended = call(script, **how).ended
    assert ended.returncode == 1
    assert words in ended.stderr


def test_the_run_that_skip_looks_at_is_an_ended_one_of_its_schedule(call):
    called = call("skip.sh")
    (asked,) = [arguments[-1] for arguments in called.of("curl") if re.search(r"/runs/", arguments[-1])]
    assert asked.endswith("/apis/v2beta1/runs/run-2-SUCCEEDED")
    assert ["schedule", "--delete", "e2e"] in called.of("cliptea")
