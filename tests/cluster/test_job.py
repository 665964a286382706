"""The TrainJob that is sent, checked by the models of Trainer's own client."""

import re

import pytest
from kubeflow_trainer_api import models

from cliptea.cluster.job import RUN_LABEL, build, job_name, run_value
from cliptea.cluster.job_settings import JobSettings, Passed

SECRET = {
    "name": "AWS_SECRET_ACCESS_KEY",
    "valueFrom": {"secretKeyRef": {"name": "cliptea-s3", "key": "k", "optional": True}},
}


def built(passed=None, owners=(), **settings):
    return build(
        "j",
        "g/a",
        ["python", "-m", "m", "train/f/inputs.json"],
        JobSettings(image="i:1", **settings),
        passed or Passed(),
        list(owners),
    )


def pod_of(job):
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return node["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("label", ["backbones/segformer_b0", "Table 3/no_ce seed 12", "///", "x" * 200, "ä/ö"])
def test_names_are_valid_distinct_and_the_same_at_every_retry(label):
    name = job_name("job", label)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-node-0-0") <= 50  # host names have at most 63 characters
    assert name == job_name("job", label)
    assert name not in (job_name("other", label), job_name("job", f"{label} "))


@pytest.mark.parametrize("job_id", ["b7964228-d1aa-47fc-8352-37456603bb33", "a" * 64, "", "x/y z", "-a", "ä", "a-"])
def test_the_run_is_a_valid_label(job_id):
    value = run_value(job_id)
    assert re.fullmatch(r"(?=.{1,63}$)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", value)
    assert (value == job_id) == (len(job_id) == 36)  # a UUID, as Pipelines names its runs, is kept
    assert value == run_value(job_id) != run_value(f"{job_id} ")
    made = build(job_id, "g/a", ["train"], JobSettings(image="i:1"), Passed(), [])
    assert made["metadata"]["labels"][RUN_LABEL] == value
    assert made["metadata"]["name"] == job_name(job_id, "g/a")


def test_nothing_is_lost_in_trainers_models():
    passed = Passed(
        env=[SECRET],
        resources={"limits": {"nvidia.com/gpu": "4", "memory": "64Gi"}, "requests": {"cpu": "8"}},
        node_selector={"gpu": "yes"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        volume_mounts=[{"name": "data", "mountPath": "/data"}],
    )
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "u"}
    job = built(passed, [owner], nodes=2, processes_per_node=4, image_pull_secrets=["pull"], seconds=60)
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    spec, pod = job["spec"], pod_of(job)
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"], spec["activeDeadlineSeconds"]) == (2, 4, 60)
    assert spec["trainer"]["resourcesPerNode"] == passed.resources
    assert SECRET in spec["trainer"]["env"]
    assert spec["trainer"]["command"] == ["python", "-m", "m", "train/f/inputs.json"]
    assert job["metadata"]["ownerReferences"] == [owner]
    assert pod["nodeSelector"] == {"gpu": "yes"}
    assert pod["tolerations"] == passed.tolerations
    assert pod["affinity"] == passed.affinity
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert passed.volumes[0] in pod["volumes"]
    assert passed.volume_mounts[0] in pod["containers"][0]["volumeMounts"]


def test_a_step_without_placement_gives_a_valid_trainjob():
    job = built()
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    assert "resourcesPerNode" not in job["spec"]["trainer"]


def test_pods_meet_the_restricted_standard_and_have_shared_memory():
    pod = pod_of(built(shared_memory="7Gi"))
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {mounts[volume["name"]]: volume["emptyDir"] for volume in pod["volumes"]}
    assert volumes["/dev/shm"] == {"medium": "Memory", "sizeLimit": "7Gi"}
    assert "/tmp" in volumes


def test_the_step_forwards_its_mlflow_run_and_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "r")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:password@host")
    env = built()["spec"]["trainer"]["env"]
    assert {"name": "MLFLOW_RUN_ID", "value": "r"} in env
    assert "password" not in str(env)
    given = Passed(env=[{"name": "MLFLOW_RUN_ID", "value": "own"}])
    names = [item["name"] for item in built(given)["spec"]["trainer"]["env"]]
    assert names.count("MLFLOW_RUN_ID") == 1


def test_pods_have_time_to_save_and_know_how_much():
    job = built(grace_seconds=77)
    assert pod_of(job)["terminationGracePeriodSeconds"] == 77
    assert {"name": "CLIPTEA_GRACE_SECONDS", "value": "77"} in job["spec"]["trainer"]["env"]


def test_pods_of_one_trainjob_share_a_rack_and_keep_other_affinities():
    passed = Passed(affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}})
    job = built(passed, topology_key="example.com/rack")
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    affinity = pod_of(job)["affinity"]
    (together,) = affinity.pop("podAffinity")["requiredDuringSchedulingIgnoredDuringExecution"]
    own = {"jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"]}  # which JobSet puts on the pods
    assert together == {"labelSelector": {"matchLabels": own}, "topologyKey": "example.com/rack"}
    assert affinity == passed.affinity
    assert "affinity" not in pod_of(built())


def test_whole_numbers_may_come_as_floats():
    assert JobSettings.model_validate({"image": "i", "nodes": 2.0, "seconds": 60.0}).nodes == 2
