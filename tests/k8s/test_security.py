"""What our own pods may do, what reaches them, and that no file holds a secret."""

import re

import pytest
import yaml
from manifests import K8S, containers, everything, pods
from restricted import violations

PODS = list(pods(everything()))
POLICIES = [item for item in everything() if item["kind"] == "NetworkPolicy"]
FILES = sorted(path for path in K8S.rglob("*") if path.is_file())


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod.owner)
class TestPods:
    def test_restricted_standard(self, pod):
        assert violations(pod.spec) == []

    def test_nothing_is_written_to_the_image(self, pod):
        assert all(container["securityContext"]["readOnlyRootFilesystem"] for container in containers(pod))
        assert all("/tmp" in [mount["mountPath"] for mount in c["volumeMounts"]] for c in containers(pod))

    def test_no_token_of_the_cluster(self, pod):
        assert pod.spec["serviceAccountName"] == "cliptea"
        assert pod.spec["automountServiceAccountToken"] is False

    def test_no_variables_of_other_services(self, pod):
        assert pod.spec["enableServiceLinks"] is False  # a service "mlflow" would set MLFLOW_PORT, which mlflow reads

    def test_memory_is_limited(self, pod):
        if not pod.owner.startswith("TrainingRuntime"):  # the TrainJob says what it needs
            for container in containers(pod):
                assert {"cpu", "memory"} <= set(container["resources"]["requests"])
                assert "memory" in container["resources"]["limits"]

    def test_images_are_pinned(self, pod):
        for container in containers(pod):
            name, _, tag = container["image"].rpartition(":")
            assert name
            assert re.match(r"v?\d+\.\d+", tag)

    def test_a_policy_closes_it(self, pod):
        closed = [policy for policy in POLICIES if selects(policy, pod.labels)]
        assert any("ingress" not in policy["spec"] for policy in closed)


def selects(policy, labels):
    return policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()


def test_policies_and_services_select_pods_that_exist():
    for policy in POLICIES:
        assert any(selects(policy, pod.labels) for pod in PODS), policy["metadata"]["name"]
        for rule in policy["spec"].get("ingress", []):
            for peer in rule["from"]:
                assert any(selects({"spec": peer}, pod.labels) for pod in PODS), policy["metadata"]["name"]
    for service in (item for item in everything() if item["kind"] == "Service"):
        served = [pod for pod in PODS if service["spec"]["selector"].items() <= pod.labels.items()]
        ports = {port["name"] for pod in served for c in containers(pod) for port in c.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, service["metadata"]["name"]


def test_a_port_that_a_service_offers_is_open():
    for service in (item for item in everything() if item["kind"] == "Service"):
        selector, ports = service["spec"]["selector"], {port["port"] for port in service["spec"]["ports"]}
        rules = [rule for policy in POLICIES if selects(policy, selector) for rule in policy["spec"].get("ingress", [])]
        assert ports <= {port["port"] for rule in rules for port in rule.get("ports", [])}


def test_trainers_reach_the_components():
    (egress,) = (p["spec"]["egress"] for p in POLICIES if p["metadata"]["name"] == "cliptea-trainer"
                 and p["metadata"]["namespace"] == "kubeflow")  # fmt: skip
    open_ports = {port["port"] for rule in egress for port in rule.get("ports", [])}
    wanted = {"cliptea-s3": 8333, "cliptea-mlflow": 5000}
    services = {item["metadata"]["name"]: item for item in everything() if item["kind"] == "Service"}
    for name, port in wanted.items():
        assert services[name]["spec"]["ports"][0]["port"] == port
        assert port in open_ports


def test_no_object_is_a_secret():
    assert not [item for item in everything() if item["kind"] == "Secret"]
    assert not [path for path in FILES if path.suffix == ".env"]


def test_examples_hold_no_values_of_secrets():
    for path in (K8S / "secrets").glob("*.example"):
        for line in path.read_text().splitlines():
            name, _, value = line.partition("=")
            if re.search(r"(KEY|PASSWORD|TOKEN|SECRET)", name) and not line.startswith("#"):
                assert value == "", line


def test_variables_with_secrets_are_references():
    for pod in PODS:
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search(r"(KEY|PASSWORD|TOKEN|SECRET)", variable["name"]):
                    assert set(variable) == {"name", "valueFrom"}, (pod.owner, variable)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda p: p.name)
def test_no_tag_is_latest(path):
    assert ":latest" not in path.read_text()
    for found in re.findall(r"\bimage: *(\S+)", path.read_text()):
        host = found.partition("/")[0]
        assert host == "docker.io" or "/" not in found, f"{found} is pulled from somebody's registry"


def test_files_are_one_kind_of_object_or_few():
    for path in FILES:
        if path.suffix == ".yaml":
            assert len([item for item in yaml.safe_load_all(path.read_text()) if item]) <= 2, path
