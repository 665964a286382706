"""A placement that says everything, in the compiled pipeline and in the pods of its TrainJobs."""

import copy
import json
import os
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from compiled import compiled_text
from k8s.manifests import OVERLAYS, one, overlay
from k8s.restricted import violations
from kubeflow_trainer_api import models

from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.errors import ConfigError
from cliptea_pipeline.compile import compile_pipeline
from cliptea_pipeline.fit import read_compiled
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.placement_file import read_placement

IMAGE = "host:5000/team/cliptea@sha256:" + "0123456789abcdef" * 4
TOLERATIONS = [
    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "seconds": 60},
]
STEP = {
    "cpu": "3",
    "cpu_limit": "4",
    "memory": "5Gi",
    "memory_limit": "6Gi",
    "gpus": 2,
    "shared_memory": "5500Mi",
    "seconds": 999,
    "node_selector": {"gpu": "a100", "zone": "b"},
    "tolerations": TOLERATIONS,
    "labels": {"kueue.x-k8s.io/queue-name": "gpu", "rank": "own"},
    "annotations": {"kueue.x-k8s.io/podset-preferred-topology": "rack"},
}
STEPS = list(type(Placement().steps).model_fields)
TRAIN_JOB = {
    "nodes": 2,
    "processes_per_node": 2,
    "scratch": "9Gi",
    "pending_seconds": 77,
    "restarts": 1,
    "abandoned_seconds": 777,
    "grace_seconds": 55,
    "topology_key": "example.com/rack",
}
EVERYTHING = {
    "image": IMAGE,
    "store": "s3://bucket/folder",
    "config_map": "settings",
    "config_keys": ["AWS_REGION"],
    "secrets": {"own": ["OWN_TOKEN"]},
    "environment": {"SSL_CERT_FILE": "/ca.pem", "NCCL_SOCKET_IFNAME": "eth0"},
    "labels": {"costs.example.com/centre": "4711", "rank": "all"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "image_pull_secrets": ["pull"],
    "gpu_resource": "amd.com/gpu",
    "user": 1234,
    "group": 5678,
    "retries": {"count": 5, "wait_seconds": 7, "factor": 3, "longest_wait_seconds": 70},
    "patience_seconds": 90,
    "parallel": 3,
    "steps": dict.fromkeys(STEPS, STEP),
}


RETRIES = '{"count":5,"wait_seconds":7,"factor":3.0,"longest_wait_seconds":70}'


def compiled(launcher, **more):
    """Containers, Kubernetes parts and tasks of the compiled pipeline, by step; and its loops."""
    given = {"launcher": launcher} | ({"train_job": TRAIN_JOB} if launcher == "trainjob" else {}) | more
    spec, platform = yaml.load_all(compiled_text(EVERYTHING | given), yaml.CSafeLoader)
    dags = [component["dag"] for component in [spec["root"], *spec["components"].values()] if "dag" in component]
    tasks = {name: task for dag in dags for name, task in dag["tasks"].items()}
    containers = {name[5:]: e["container"] for name, e in spec["deploymentSpec"]["executors"].items()}
    parts = {n[5:]: e for n, e in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()}
    return containers, parts, {name: tasks[name] for name in containers}, tasks


def test_everything_is_set_on_every_step():
    containers, parts, tasks, others = compiled("torchrun")
    assert set(containers) == set(parts) == set(STEPS)
    for step in STEPS:
        container, part = containers[step], parts[step]
        assert container["image"] == IMAGE
        resources = container["resources"]
        asked = [resources[f"resource{what}{kind}"] for what in ("Cpu", "Memory") for kind in ("Request", "Limit")]
        assert asked == ["3", "4", "5Gi", "6Gi"]
        assert (resources["accelerator"]["resourceType"], resources["accelerator"]["resourceCount"]) == (
            "amd.com/gpu",
            "2",
        )
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment.pop("CLIPTEA_STUDENTS", None) == ("100" if step == "resolve" else None)
        assert environment == {
            "CLIPTEA_GPUS": "2",
            "CLIPTEA_IMAGE": IMAGE,
            "CLIPTEA_STORE": "s3://bucket/folder",
            "CLIPTEA_RETRIES": RETRIES,
            "CLIPTEA_PATIENCE": "90",
            "SSL_CERT_FILE": "/ca.pem",
            "NCCL_SOCKET_IFNAME": "eth0",
        }
        assert part["activeDeadlineSeconds"] == "999"
        assert part["nodeSelector"]["labels"] == STEP["node_selector"]
        assert part["tolerations"] == [
            TOLERATIONS[0],
            {"key": "spot", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": "60"},
        ]
        assert part["podMetadata"] == {
            "labels": {"costs.example.com/centre": "4711", "kueue.x-k8s.io/queue-name": "gpu", "rank": "own"},
            "annotations": STEP["annotations"] | {"sidecar.istio.io/inject": "false"},
        }
        assert part["securityContext"] == {"runAsUser": "1234", "runAsGroup": "5678", "runAsNonRoot": True}
        assert [item["secretName"] for item in part["imagePullSecret"]] == ["pull"]
        assert [item["configMapName"] for item in part["configMapAsEnv"]] == ["settings"]
        assert {item["secretName"] for item in part["secretAsEnv"]} >= {"cliptea-s3", "cliptea-mlflow", "own"}
        (shm,) = part["emptyDirMounts"]
        assert (shm["mountPath"], shm["medium"], shm["sizeLimit"]) == ("/dev/shm", "Memory", "5500Mi")
        retries = {
            "maxRetryCount": 5,
            "backoffDuration": "7s",
            "backoffFactor": 3.0,
            "backoffMaxDuration": "70s",
        }
        assert tasks[step].get("retryPolicy") == (None if step == "finish" else retries)  # KFP's exit tasks have none
    assert [task["iteratorPolicy"] for task in others.values() if "iteratorPolicy" in task] == [{"parallelismLimit": 3}]


def test_token_parts_take_half_as_much_room_as_students(tmp_path):
    rooms = [Placement(students=50, token_parts=parts).room for parts in (1, 2, 3, 4, 11)]
    assert rooms == [50, 49, 49, 48, 45]
    assert Placement().room == 100
    with pytest.raises(ValueError, match=r"token_parts=20 leaves no room .*students=10.* token_parts below 20"):
        Placement(students=10, token_parts=20)
    assert Placement(students=10, token_parts=19).room == 1
    file = compile_pipeline(Placement(students=50, token_parts=11), tmp_path / "p.yaml")
    assert read_compiled(file).room == 45


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_reaches_the_pods_of_a_trainjob(name):
    containers, parts, tasks, others = compiled("trainjob")
    assert "activeDeadlineSeconds" not in parts["launch"]  # a TrainJob may wait in a queue for any time
    assert parts["launch"]["podMetadata"] == {key: EVERYTHING[key] for key in ("labels", "annotations")}
    assert tasks["launch"]["retryPolicy"]["maxRetryCount"] == 5
    constant = others["launch"]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]
    settings, passed = JobSettings.model_validate(constant), handed_on(containers["launch"], parts["launch"])
    job = build("cliptea-a-0", "g/a", ["python", "-m", "m", "train/f/inputs.json"], settings, passed, [])
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    assert job["spec"]["activeDeadlineSeconds"] == 999
    assert (settings.restarts, settings.abandoned_seconds) == (1, 777)
    given, template = job["metadata"], template_of(job)
    annotations = EVERYTHING["annotations"] | STEP["annotations"]
    assert given["labels"].items() > (EVERYTHING["labels"] | STEP["labels"]).items()
    assert given["annotations"] == annotations | {"cliptea/variant": "g/a"}
    # Kueue admits the TrainJob. Were its pods to name the queue as well, it would hold them once more.
    labels = {"costs.example.com/centre": "4711", "rank": "own"}
    assert template["metadata"] == {"labels": labels, "annotations": annotations}
    trainer, pod = job["spec"]["trainer"], pod_of(job, one(overlay(name), "TrainingRuntime", "cliptea-torch"))
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 2)

    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(manifest, version, strict=True)
    assert violations(pod) == []
    (container,) = pod["containers"]
    assert container["image"] == IMAGE
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "6Gi", "amd.com/gpu": "2"}
    assert container["resources"]["requests"] == {"cpu": "3", "memory": "5Gi"}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (1234, 5678)
    assert pod["nodeSelector"].items() >= STEP["node_selector"].items()
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu", "spot"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["terminationGracePeriodSeconds"] == 55
    (together,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert together["topologyKey"] == "example.com/rack"
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"]}
    places = {mount["mountPath"]: sizes[mount["name"]] for mount in container["volumeMounts"]}
    assert places == {"/dev/shm": "5500Mi", "/tmp": "9Gi"}
    names = [variable["name"] for variable in container["env"]]
    assert len(names) == len(set(names))
    given = {variable["name"]: variable for variable in container["env"]}
    assert given["CLIPTEA_STORE"]["value"] == "s3://bucket/folder"
    assert given["CLIPTEA_GPUS"]["value"] == "2"  # of each pod
    assert (given["CLIPTEA_GRACE_SECONDS"]["value"], given["NCCL_SOCKET_IFNAME"]["value"]) == ("55", "eth0")
    assert (given["CLIPTEA_RETRIES"]["value"], given["CLIPTEA_PATIENCE"]["value"]) == (RETRIES, "90")
    reference = given["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "cliptea-s3", "key": "AWS_SECRET_ACCESS_KEY", "optional": True}


# What Pipelines' plug-in gives every step as plain values: a reference under the same name makes a pod that is refused.
PLUGIN = {"MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_AUTH"}


@pytest.mark.parametrize("on", [False, True])
def test_the_mlflow_plugin_sets_its_variables_alone(on):
    containers, parts, _, _ = compiled("torchrun", mlflow_plugin=on, config_keys=["MLFLOW_RUN_ID"])
    for step in STEPS:
        named = {item["name"] for item in containers[step]["env"]}
        for kind in ("secretAsEnv", "configMapAsEnv"):
            named |= {key["envVar"] for item in parts[step].get(kind, []) for key in item["keyToEnv"]}
        assert named & PLUGIN == (set() if on else {"MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"})
        assert {"MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "OWN_TOKEN"} <= named  # TrainJobs need them as well


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"environment": {"CLIPTEA_PATIENCE": "5"}}, "CLIPTEA_PATIENCE is set by the key patience_seconds"),
        ({"environment": {"CLIPTEA_RETRIES": "{}"}}, "CLIPTEA_RETRIES is set by the key retries"),
        ({"config_keys": ["CLIPTEA_PATIENCE"]}, "CLIPTEA_PATIENCE is set by the key patience_seconds"),
        ({"secrets": {"own": ["CLIPTEA_IMAGE"]}}, "CLIPTEA_IMAGE is set by the key image"),
        ({"environment": {"CLIPTEA_GPUS": "1"}}, "CLIPTEA_GPUS is set by the key gpus of each step"),
        (
            {"environment": {"CLIPTEA_GRACE_SECONDS": "60"}},
            "CLIPTEA_GRACE_SECONDS is set by the key train_job.grace_seconds",
        ),
        ({"config_keys": [], "environment": {"CLIPTEA_STORE": "s3://b/a"}}, "CLIPTEA_STORE is set by the key store"),
    ],
)
def test_a_variable_that_a_key_sets_is_named_nowhere_else(tmp_path, given, says):
    (tmp_path / "p.yaml").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=says):
        read_placement(tmp_path / "p.yaml")


GOOD_KEYS = [
    "a",
    "A.b_c-9",
    "x" * 63,
    "kueue.x-k8s.io/priority-class",
    f"{'a.' * 126}a/b",
    "app.kubernetes.io/instance",
]
BAD_KEYS = ["", "-a", "a-", "x" * 64, "a/", "/a", "a/b/c", "A.b/c", "a..b/c", f"{'a.' * 127}a/b", "ä", "a b", "a\n"]
RESERVED = ["cliptea/run", "app.kubernetes.io/part-of", "pipeline/runid", "jobset.sigs.k8s.io/jobset-name"]


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_names_of_labels_and_annotations_are_those_of_kubernetes(where):
    for key in GOOD_KEYS:
        assert getattr(Placement.model_validate({where: {key: ""}}), where) == {key: ""}
    for key in [*BAD_KEYS, *RESERVED]:
        with pytest.raises(ValueError, match="expected NAME or DOMAIN/NAME" if key in BAD_KEYS else "choose another"):
            Placement.model_validate({where: {key: ""}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"labels": {"a": "b c"}}, r"p.yaml: labels.a: 'b c' is refused; expected at most 63 letters"),
        ({"labels": {"a": "x" * 64}}, "at most 63 letters"),
        ({"labels": {"sidecar.istio.io/inject": False}}, "expected text; put it in quotes"),
        ({"labels": {"cliptea/run": "x"}}, "labels.cliptea/run: cliptea/run is set by cliptea, Kubeflow or Kubernetes"),
        ({"steps": {"train": {"labels": {"a b": "c"}}}}, "steps.train.labels.a b: 'a b' is refused; expected NAME"),
        ({"annotations": {"a": "http://user:hush@host"}}, "the value holds a password"),
        ({"annotations": {"a": "x" * (256 << 10)}}, "more than 256 KiB"),
    ],
)
def test_labels_that_kubernetes_would_refuse_are_one_line(tmp_path, given, says):
    (tmp_path / "p.yaml").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=says) as caught:
        read_placement(tmp_path / "p.yaml")
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"node_selector": {"gpu": "NVIDIA A100"}}, "'NVIDIA A100' is refused; expected at most 63 letters"),
        ({"node_selector": {"a b": "c"}}, "'a b' is refused; expected NAME or DOMAIN/NAME"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "the operator Exists has no value"),
        ({"tolerations": [{"effect": "NoSchedule"}]}, "without a key is for all taints"),
        ({"tolerations": [{"key": "a", "effect": "NoSchedule", "seconds": 60}]}, "add effect: NoExecute"),
        ({"tolerations": [{"key": "a", "value": "b c"}]}, "'b c' is refused"),
    ],
)
def test_what_no_node_and_no_taint_can_be_called_is_one_line(tmp_path, given, says):
    (tmp_path / "p.yaml").write_text(json.dumps({"steps": {"train": given}}))
    with pytest.raises(ConfigError, match=says) as caught:
        read_placement(tmp_path / "p.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"gpu_resource": "gpu"}, "'gpu' is refused; expected DOMAIN/NAME, such as nvidia.com/gpu"),
        ({"environment": {"PET_NNODES": "2"}}, "names that begin with PET_ belong to Kubeflow Trainer"),
        ({"user": 1 << 31}, "user"),
    ],
)
def test_what_kubernetes_or_trainer_takes_otherwise_is_one_line(tmp_path, given, says):
    (tmp_path / "p.yaml").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=says):
        read_placement(tmp_path / "p.yaml")


def test_nodes_may_have_labels_and_taints_of_kubernetes():
    step = {
        "node_selector": {"kubernetes.io/arch": "amd64", "batch.kubernetes.io/pool": ""},
        "tolerations": [{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "seconds": 60}],
    }
    assert Placement.model_validate({"steps": {"train": step}}).steps.train.model_dump(exclude_unset=True) == step


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"store": "s3://bucket/x?password=hush-hush"}, "store"),
        ({"store": "file:///d?password=hush-hush"}, "store"),
        ({"gpu_resource": "http://user:hush-hush@host"}, "gpu_resource"),
        ({"config_map": "a", "labels": {"a": "ghp_hush-hush-hush-hush"}}, "labels.a"),
        ({"steps": {"train": {"node_selector": {"a": "?token=hush-hush"}}}}, "steps.train.node_selector.a"),
        ({"steps": {"train": {"node_selector": {"?token=hush-hush": "a"}}}}, r"steps.train.node_selector.\?token"),
        ({"steps": {"split": {"tolerations": [{"key": "?token=hush-hush"}]}}}, "steps.split.tolerations.0.key"),
        ({"steps": {"split": {"tolerations": [{"value": "?token=hush-hush"}]}}}, "steps.split.tolerations.0.value"),
    ],
)
def test_no_text_of_a_placement_may_hold_a_password(tmp_path, given, key):
    (tmp_path / "p.yaml").write_text(json.dumps(given))
    with pytest.raises(ConfigError, match=f"p.yaml: {key}.* the value holds a password") as caught:
        read_placement(tmp_path / "p.yaml")
    assert "hush" not in str(caught.value)


def test_annotations_may_hold_what_labels_may_not():
    assert Placement(annotations={"a": "b c\nd"}).annotations == {"a": "b c\nd"}


def handed_on(container, part):
    """What KFP's driver makes of a step's placement: fragments of a pod's specification."""
    resources = container["resources"]
    gpus = {resources["accelerator"]["resourceType"]: resources["accelerator"]["resourceCount"]}
    sources = [(part["secretAsEnv"], "secret"), (part["configMapAsEnv"], "configMap")]
    references = [
        {
            "name": key["envVar"],
            "valueFrom": {
                f"{kind}KeyRef": {"name": item[f"{kind}Name"], "key": key[f"{kind}Key"], "optional": item["optional"]}
            },
        }
        for items, kind in sources
        for item in items
        for key in item["keyToEnv"]
    ]
    tolerations = [
        {k: int(v) if k == "tolerationSeconds" else v for k, v in toleration.items()}
        for toleration in part["tolerations"]
    ]
    return Passed(
        resources={
            "requests": {"cpu": resources["resourceCpuRequest"], "memory": resources["resourceMemoryRequest"]},
            "limits": {"cpu": resources["resourceCpuLimit"], "memory": resources["resourceMemoryLimit"], **gpus},
        },
        env=container["env"] + references,
        node_selector=part["nodeSelector"]["labels"],
        tolerations=tolerations,
    )


def template_of(job):
    """What a TrainJob changes in its pods."""
    (patch,) = job["spec"]["runtimePatches"]
    (changed,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return changed["template"]["spec"]["template"]


def pod_of(job, runtime):
    """The pod that Trainer makes of a TrainJob and its runtime: the patch merged by names, then the trainer's part."""
    (own,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = merged(own["template"]["spec"]["template"]["spec"], template_of(job)["spec"])
    (container,) = pod["containers"]
    trainer = job["spec"]["trainer"]
    container |= {key: trainer[key] for key in ("image", "command", "env")} | {"resources": trainer["resourcesPerNode"]}
    return pod


KEYS = {"containers": "name", "volumes": "name", "volumeMounts": "mountPath"}  # of strategic merging


def merged(old, new):
    result = copy.deepcopy(old)
    for field, value in new.items():
        if isinstance(value, dict):
            result[field] = merged(result.get(field, {}), value)
        elif field in KEYS:
            key = KEYS[field]
            there = {item[key]: item for item in result.get(field, [])}
            result[field] = list(
                (there | {item[key]: merged(there.get(item[key], {}), item) for item in value}).values()
            )
        else:
            result[field] = value
    return result


@pytest.mark.parametrize("text", ["1e29", "1" + "0" * 29, ".inf", ".nan", "-1", "010", "2:30"])
def test_absurd_numbers_are_refused(tmp_path, text):
    jobs = "train_job: {nodes: X}", "train_job: {grace_seconds: X}"
    for line in ("token_parts: X", "students: X", "steps: {train: {gpus: X}}", "user: X", *jobs):
        (tmp_path / "placement.yaml").write_text(line.replace("X", text))
        with pytest.raises(ConfigError) as caught:
            read_placement(tmp_path / "placement.yaml")
        assert "\n" not in str(caught.value)


def test_a_yaml_bomb_or_a_named_pipe_is_refused_at_once(tmp_path):
    levels = "\n".join(f"x{number}: &x{number} [{', '.join([f'*x{number - 1}'] * 10)}]" for number in range(1, 10))
    (tmp_path / "placement.yaml").write_text(f"x0: &x0 [a]\n{levels}\n")
    with pytest.raises(ConfigError, match="more than 50000 values"):
        read_placement(tmp_path / "placement.yaml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="named pipe"):
        read_placement(tmp_path / "pipe")


def test_a_placement_may_come_from_a_pipe_of_the_shell():
    code = "from pathlib import Path\nfrom cliptea_pipeline.placement_file import read_placement\n"
    code += "print(read_placement(Path('/dev/stdin')).image)"
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, check=True, input="image: 'a:1'\n", capture_output=True, text=True)
    assert ended.stdout == "a:1\n"
