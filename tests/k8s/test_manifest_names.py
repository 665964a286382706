"""The manifests and the pipeline speak of the same things by the same names."""

import os
import re
import subprocess
import sys
import textwrap
from base64 import b64decode
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api import models
from kubernetes.utils.quantity import parse_quantity
from manifests import COMPONENTS, K8S, OVERLAYS, containers, everything, granted, one, overlay, pods, render, select

from cliptea import __version__
from cliptea.cluster import job, job_settings
from cliptea_pipeline.compile import compile_pipeline
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.placement_file import read_placement


def test_rights_in_the_whole_cluster_are_one_and_not_given_unasked(tmp_path):
    found = select(tmp_path, COMPONENTS)
    (role,) = [item for item in found if item["kind"] == "ClusterRole"]
    assert granted(role) == {("get", "trainer.kubeflow.org", "clustertrainingruntimes")}
    for name in OVERLAYS:
        assert not [item for item in overlay(name) if item["kind"].startswith("Cluster")]


@pytest.mark.parametrize(("name", "account"), [("local", "pipeline-runner"), ("production", "default-editor")])
def test_the_role_goes_to_the_account_that_runs_the_steps(name, account):
    binding = one(overlay(name), "RoleBinding", "cliptea-train-step")
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cliptea-train-step"}
    assert [subject["name"] for subject in binding["subjects"]] == [account]


def test_our_images_carry_the_version_of_the_package():
    tags = {c["image"] for pod in pods(everything()) for c in containers(pod) if c["image"].startswith("cliptea")}
    assert tags == {f"cliptea:{__version__}", f"cliptea:{__version__}-cuda", f"cliptea-mlflow:{__version__}"}


def test_what_the_pods_refer_to_is_there():
    for pod in pods(everything()):
        for container in containers(pod):
            for source in container.get("envFrom", []):
                name = next(iter(source.values()))["name"]
                assert name == "cliptea" if "configMapRef" in source else name in secret_keys()
            for variable in container.get("env", []):
                for kind, reference in variable.get("valueFrom", {}).items():
                    known = config_keys() if kind == "configMapKeyRef" else secret_keys()[reference["name"]]
                    assert reference["key"] in known


def config_keys():
    return one(overlay("local"), "ConfigMap", "cliptea")["data"]


def secret_keys():
    """The keys of each secret, from the examples and their commands."""
    found = {}
    for path in (K8S / "secrets").glob("*.example"):
        text = path.read_text()
        (name,) = re.findall(r"create secret generic (\S+) --from-env-file=", text)
        found[name] = set(re.findall(r"^([A-Z0-9_]+)=", text, re.M)) | set(
            re.findall(r"\bMLFLOW_TRACKING_[A-Z]+", text)
        )
    return found


def test_the_pipeline_knows_the_same_names():
    placement = Placement()
    assert placement.config_map == "cliptea"
    assert set(placement.config_keys) <= set(config_keys())
    for secret, keys in placement.secrets.items():
        assert set(keys) == secret_keys()[secret]
    runtime = one(overlay("local"), placement.train_job.runtime_kind, placement.train_job.runtime)
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (
        placement.user,
        placement.group,
    )
    assert placement.image == pod["containers"][0]["image"]


def test_the_train_step_patches_what_the_runtime_has():
    built = job.build("a", "b", "c", job_settings.JobSettings(image="cliptea:0"), job_settings.Passed(), [])
    (patch,) = built["spec"]["runtimePatches"]
    (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    runtime = one(overlay("local"), "TrainingRuntime", "cliptea-torch")
    (own,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert patched["name"] == own["name"]
    theirs, ours = (item["template"]["spec"]["template"]["spec"] for item in (patched, own))
    assert [c["name"] for c in theirs["containers"]] == [c["name"] for c in ours["containers"]]
    # merged by path and by name: the same path under two names would be mounted twice
    assert theirs["containers"][0]["volumeMounts"] == ours["containers"][0]["volumeMounts"]
    assert [volume["name"] for volume in theirs["volumes"]] == [volume["name"] for volume in ours["volumes"]]


def test_a_training_fails_as_a_whole_and_its_pods_stay_to_be_read():
    """As the train step expects it, which makes a TrainJob anew after an eviction."""
    (own,) = one(overlay("local"), "TrainingRuntime", "cliptea-torch")["spec"]["template"]["spec"]["replicatedJobs"]
    job = own["template"]["spec"]
    assert (job["backoffLimit"], job["template"]["spec"]["restartPolicy"]) == (0, "Never")


def test_training_runs_on_gpus_where_they_are_switched_on():
    pod = next(pod for pod in pods(overlay("production")) if pod.owner == "TrainingRuntime/cliptea-torch")
    assert pod.spec["runtimeClassName"] == "nvidia"
    assert pod.spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod.spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod.spec["containers"][0]["image"].endswith("-cuda")


@pytest.mark.parametrize("path", sorted(K8S.glob("overlays/*/placement.yaml")), ids=lambda path: path.parent.name)
def test_the_placement_of_an_overlay_compiles_and_agrees_with_it(path, tmp_path):
    placement = read_placement(path)

    assert placement.image in compile_pipeline(placement, tmp_path / "pipeline.yaml").read_text()
    pod = next(pod for pod in pods(overlay(path.parent.name)) if pod.owner == "TrainingRuntime/cliptea-torch")
    train = placement.steps.train
    assert placement.image == pod.spec["containers"][0]["image"]
    assert train.node_selector == pod.spec.get("nodeSelector", {})
    tolerations = [toleration.model_dump(exclude_none=True) for toleration in train.tolerations]
    assert tolerations == pod.spec.get("tolerations", [])


@pytest.mark.parametrize("path", sorted(K8S.glob("secrets/*.example")), ids=lambda path: path.name)
def test_the_command_beside_each_secret_works(path, tmp_path):
    command = re.search(r"^# (kubectl .*)$", path.read_text(), re.M)[1].split()
    assert command[-1] == f"--from-env-file=k8s/secrets/{path.stem}"
    file = tmp_path / path.stem
    file.write_text(re.sub(r"=$", "=value", path.read_text(), flags=re.M))
    tool = Path(sys.executable).parent / "kubectl"
    done = subprocess.run(
        [tool, *command[1:-1], f"--from-env-file={file}", "--dry-run=client", "--output=yaml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    secret = yaml.safe_load(done.stdout)
    assert set(secret["data"]) <= secret_keys()[secret["metadata"]["name"]]
    assert all(b64decode(value) for value in secret["data"].values())


@pytest.mark.parametrize("page", ["cluster", "operations", "troubleshooting"])
def test_the_pages_for_engineers_name_files_images_and_objects_that_exist(page):
    text = (K8S.parent / f"docs/{page}.md").read_text()
    for path in re.findall(r"\bk8s/[\w./-]+", text.replace("OVERLAY", "local").replace(".env ", ".env.example ")):
        assert (K8S.parent / path.removesuffix(".")).exists() or path.endswith(".env"), path
    assert set(re.findall(r"\bcliptea(?:-mlflow)?:(\d[\d.]*\d)", text)) <= {__version__}
    known = {(item["kind"].lower(), item["metadata"]["name"]) for item in everything()}
    for kind, name in re.findall(r"\b(job|deployment|statefulset|svc)/([a-z0-9-]+)", text):
        assert (kind.replace("svc", "service"), name) in known or name == "ml-pipeline-ui", name


@pytest.mark.parametrize("path", sorted(K8S.glob("overlays/*/placement.yaml")), ids=lambda path: path.parent.name)
def test_the_students_of_a_placement_fit_the_quota(path):
    """Else those that wait for room are given up."""
    quota = one(overlay(path.parent.name), "ResourceQuota", "cliptea")["spec"]["hard"]
    placement = read_placement(path)
    students, gpus = placement.students_at_a_time, placement.train_job.nodes * placement.steps.train.gpus
    assert 0 < students <= int(quota["count/trainjobs.trainer.kubeflow.org"])
    assert students * gpus <= int(quota[f"requests.{placement.gpu_resource}"])


def test_a_run_of_the_local_placement_leaves_half_of_two_processors_to_the_cluster():
    placement = read_placement(K8S / "overlays/local/placement.yaml")
    assert set(type(placement.steps).model_fields) > {"tokens", "train", "evaluate"}
    steps = [getattr(placement.steps, name) for name in type(placement.steps).model_fields]
    servers = sum(
        max(parse_quantity(container["resources"]["requests"]["cpu"]) for container in containers(pod))
        for pod in pods(overlay("local"))
        if pod.owner.startswith(("Deployment", "StatefulSet"))
    )
    driver, nodes = Decimal("0.1"), 2  # a driver's pod of Pipelines; a TrainJob of two nodes beside any step
    asked = servers + driver + max(parse_quantity(step.cpu) for step in steps)
    asked += nodes * parse_quantity(placement.steps.train.cpu)
    assert asked <= 1
    assert max(parse_quantity(step.cpu_limit) for step in steps) == 2
    text = (K8S.parent / "docs/cluster.md").read_text()
    assert f"cliptea's servers ({servers.normalize()})" in text
    assert f"request {asked.normalize()} CPUs" in text


def test_what_the_page_removes_by_label_carries_it():
    removed = [item for item in render(K8S / "jobs/copy-data") if item["kind"] in ("Job", "ConfigMap")]
    assert len(removed) == 2
    assert "delete job,configmap -l app.kubernetes.io/part-of=cliptea" in (K8S.parent / "docs/cluster.md").read_text()
    assert {item["metadata"]["labels"]["app.kubernetes.io/part-of"] for item in removed} == {"cliptea"}


def test_the_database_of_mlflow_is_made_in_utf8():
    (container,) = one(overlay("local"), "StatefulSet", "cliptea-postgres")["spec"]["template"]["spec"]["containers"]
    given = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert "--encoding=UTF8" in given["POSTGRES_INITDB_ARGS"].split()


def test_one_secret_lets_every_pod_of_production_pull():
    names = [{"name": name} for name in read_placement(K8S / "overlays/production/placement.yaml").image_pull_secrets]
    assert one(overlay("production"), "ServiceAccount", "cliptea")["imagePullSecrets"] == names
    text = (K8S.parent / "docs/cluster.md").read_text()
    assert f"create secret docker-registry {names[0]['name']} " in text


def test_the_patch_for_a_priority_class_works(tmp_path):
    text = (K8S.parent / "docs/cluster.md").read_text()
    found = re.search(r"^ {6}- target: \{kind: TrainingRuntime.*?\n\n", text, re.M | re.S)
    patches = yaml.safe_load(textwrap.dedent(found[0]))
    base = os.path.relpath(K8S / "base", tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [base], "patches": patches}))
    objects = render(tmp_path)
    (pod,) = pods(objects)
    assert (pod.owner, pod.spec["priorityClassName"]) == ("TrainingRuntime/cliptea-torch", "training")
    runtime = one(objects, "TrainingRuntime", "cliptea-torch")
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(runtime).to_dict() == runtime


def test_a_trainjob_cannot_set_a_priority_class():
    """If this fails, Trainer has learned it, and the placement may."""
    assert "priority_class_name" not in models.TrainerV1alpha1PodSpecPatch.model_fields
