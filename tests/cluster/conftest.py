from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import yaml
from doctor_lines import CONTROLLER, PLACE, TRAINER, secret
from fake_kubernetes import FakeKubernetes
from fake_pipelines import FakePipelines
from k8s.manifests import K8S, granted, one, overlay
from watched import QUICK

from cliptea.storage import Store, open_store
from cliptea_pipeline import watch


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Iterator[FakeKubernetes]:
    """A cluster, which this process is configured for, and where it may do what the Roles of the manifests grant."""
    fake = FakeKubernetes()
    queues = list(yaml.safe_load_all((K8S / "components/kueue/rbac.yaml").read_text()))
    roles = one(overlay("local"), "Role", "cliptea-train-step"), one(queues, "Role", "cliptea-queues")
    fake.granted = set().union(*map(granted, roles))
    config = tmp_path / "kubeconfig"
    config.write_text(fake.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(config))
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0.6")
    yield fake
    fake.close()
    assert fake.wrong == []


@pytest.fixture
def pipelines(monkeypatch) -> Iterator[FakePipelines]:
    """A KFP server, which the environment names."""
    fake = FakePipelines()
    monkeypatch.setenv("KFP_ENDPOINT", fake.url)
    for name in ("KFP_TOKEN", "KFP_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    yield fake
    fake.close()
    assert fake.wrong == []


@pytest.fixture
def bare(monkeypatch, tmp_path) -> None:
    """Nothing is configured, and MLflow, wherever it is, shows no run that is left open."""
    monkeypatch.setattr("cliptea.tracking.state.close_silent_runs", lambda ended: [])
    for name in ("CLIPTEA_STORE", "MLFLOW_TRACKING_URI", "KFP_ENDPOINT", "KFP_TOKEN", "KFP_NAMESPACE",
                 "KUBERNETES_SERVICE_HOST"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))


@pytest.fixture
def cluster(bare, kubernetes, monkeypatch, tmp_path) -> FakeKubernetes:
    """A cluster in which nothing is missing, as its administrator sees it."""
    kubernetes.granted = None
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    secrets = {
        "cliptea-s3": ["AWS_ACCESS_KEY_ID"],
        "cliptea-mlflow": ["MLFLOW_TRACKING_URI"],
        "cliptea-webhook": ["CLIPTEA_WEBHOOK"],
        "pull": [".dockerconfigjson"],
    }
    base = "/api/v1/namespaces/team/secrets/"
    kubernetes.objects = {base + name: secret(*keys) for name, keys in secrets.items()}
    known = [
        {"name": kind.lower() + "s", "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": ["get"]}
        for kind in ("TrainJob", "TrainingRuntime")
    ]
    kubernetes.objects[TRAINER] = {"kind": "APIResourceList", "groupVersion": TRAINER[6:], "resources": known}
    runtime = one(overlay("local"), "TrainingRuntime", "cliptea-torch")
    kubernetes.objects[f"{TRAINER}/namespaces/team/trainingruntimes/cliptea-torch"] = runtime
    nodes = [{"status": {"allocatable": {"nvidia.com/gpu": count}}} for count in ("0", "4", "8")]
    for kind, name in (("ConfigMap", "configmaps/cliptea"), ("ResourceQuota", "resourcequotas")):
        item = copy.deepcopy(one(overlay("local"), kind, "cliptea"))
        found = item if kind == "ConfigMap" else {"kind": "ResourceQuotaList", "apiVersion": "v1", "items": [item]}
        kubernetes.objects[f"/api/v1/namespaces/team/{name}"] = found
    kubernetes.objects["/api/v1/nodes"] = {"kind": "NodeList", "items": nodes}
    kubernetes.objects[PLACE] = {"kind": "ConfigMap", "apiVersion": "v1", "data": CONTROLLER}
    return kubernetes


@pytest.fixture
def watching(monkeypatch) -> None:
    """A command that follows a run quickly, where neither store, MLflow nor Kubernetes is named."""
    for name in ("CLIPTEA_STORE", "CLIPTEA_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "CLIPTEA_EVENTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setattr(watch, "PACE", QUICK)


@pytest.fixture
def store(tmp_path, watching, monkeypatch) -> Store:
    """The store that the steps write to, named here."""
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    (tmp_path / "store").mkdir()
    return open_store()
