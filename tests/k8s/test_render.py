"""Every overlay and every choice of components renders to objects that Kubernetes and Kubeflow Trainer know."""

import kubernetes_validate
import pytest
from kubeflow_trainer_api import models
from kubernetes.utils.quantity import parse_quantity
from manifests import K8S, OVERLAYS, SELECTIONS, everything, one, overlay, render, select

from cliptea.cluster.job import KUEUE
from cliptea.cluster.kubernetes_api import KUEUE_VERSION
from cliptea_pipeline.placement import Placement
from cliptea_pipeline.placement_file import read_placement

QUEUES = ("ResourceFlavor", "ClusterQueue", "LocalQueue")  # of Kueue, which has no models in Python
OURS = ("TrainingRuntime", "WorkloadPriorityClass", *QUEUES)  # kinds that Kubernetes itself does not know
VERSIONS = ("1.30", kubernetes_validate.latest_version())


def identity(item):
    return item["apiVersion"], item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]


@pytest.mark.parametrize("components", SELECTIONS, ids="+".join)
def test_components_combine(components, tmp_path):
    found = select(tmp_path, components)
    assert len({identity(item) for item in found}) == len(found) >= len(render(K8S / "base"))


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_schemas(version):
    for item in everything() + [namespace(name) for name in OVERLAYS]:
        if item["kind"] not in OURS:
            kubernetes_validate.validate(item, version, strict=True)


def test_a_misspelt_field_is_found():
    wrong = namespace("local") | {"metadatum": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_runtimes_are_what_trainer_knows():
    runtimes = [item for item in everything() if item["kind"] == "TrainingRuntime"]
    assert runtimes
    for item in runtimes:
        assert models.TrainerV1alpha1TrainingRuntime.from_dict(item).to_dict() == item
    wrong = runtimes[0] | {"spec": runtimes[0]["spec"] | {"mlPolicies": {}}}
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(wrong).to_dict() != wrong


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_is_named_everywhere(name):
    place = namespace(name)["metadata"]["name"]
    for item in overlay(name):
        assert item["metadata"]["namespace"] == place
        assert all(subject["namespace"] == place for subject in item.get("subjects", []))


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_namespace_asks_for_the_restricted_standard(name):
    labels = namespace(name)["metadata"]["labels"]
    enforced = "restricted" if name == "production" else "baseline"  # in `local` Pipelines' own pods are there too
    assert labels["pod-security.kubernetes.io/enforce"] == enforced
    assert labels["pod-security.kubernetes.io/warn"] == labels["pod-security.kubernetes.io/audit"] == "restricted"


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_that_says_nothing_is_not_evicted_first(name):
    """The launcher of a TrainJob takes 135 MiB for its imports alone, and its pod cannot have a request of its own."""
    (limits,) = one(overlay(name), "LimitRange", "cliptea")["spec"]["limits"]
    assert limits["type"] == "Container"
    assert limits["defaultRequest"]["memory"] == "512Mi"
    assert ("cpu" in limits["defaultRequest"]) == (name == "production")


@pytest.mark.parametrize("name", OVERLAYS)
def test_removing_an_overlay_keeps_the_namespace(name):
    assert not [item for item in overlay(name) if item["kind"] in ("Namespace", "PersistentVolumeClaim")]


def namespace(name):
    import yaml

    return yaml.safe_load((K8S / "overlays" / name / "namespace.yaml").read_text())


def test_what_is_for_the_whole_cluster_has_no_namespace_and_needs_no_rights_in_an_overlay(tmp_path):
    """kustomize would take every kind that it does not know for one of a namespace."""
    assert not [item for item in render(K8S / "queues") if "namespace" in item["metadata"]]
    for name in OVERLAYS:
        assert not [item for item in overlay(name) if KUEUE in str(item)]
    added = [item for item in select(tmp_path, ["kueue"]) if KUEUE in str(item)]
    assert [(item["kind"], item["metadata"]["namespace"]) for item in added] == [("Role", "anywhere")]


def test_queues_cover_what_students_request_and_lead_to_each_other():
    """The fields are those of Kueue's documentation, as no schema of them is at hand."""
    found = render(K8S / "queues")
    flavor, queue, local = (one(found, kind, "cliptea") for kind in QUEUES)
    assert {item["apiVersion"] for item in found} == {f"{KUEUE}/{KUEUE_VERSION}"}
    assert one(found, "WorkloadPriorityClass", "cliptea-high")["value"] > 0
    assert local["spec"] == {"clusterQueue": "cliptea"}
    (group,) = queue["spec"]["resourceGroups"]
    (given,) = group["flavors"]
    assert given["name"] == flavor["metadata"]["name"]
    quota = {item["name"]: parse_quantity(item["nominalQuota"]) for item in given["resources"]}
    assert list(quota) == group["coveredResources"] == ["cpu", "memory", Placement().gpu_resource]
    placement = read_placement(K8S / "overlays/production/placement.yaml")
    train, students = placement.steps.train, placement.students_at_a_time
    asked = {"cpu": parse_quantity(train.cpu), "memory": parse_quantity(train.memory), "nvidia.com/gpu": train.gpus}
    pods = students * placement.train_job.nodes
    assert all(pods * asked[name] <= room for name, room in quota.items())  # or else some are never admitted
    room = one(overlay("production"), "ResourceQuota", "cliptea")["spec"]["hard"]["requests.nvidia.com/gpu"]
    assert quota["nvidia.com/gpu"] == parse_quantity(room)
