from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_kubernetes import FakeKubernetes
from fake_pipelines import FakePipelines
from k8s.manifests import granted, one, overlay
from watched import QUICK

from cliptea.storage import Store, open_store
from cliptea_pipeline import watch


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Iterator[FakeKubernetes]:
    """A cluster, which this process is configured for, and where it may do what the manifests' Role grants."""
    fake = FakeKubernetes()
    fake.granted = granted(one(overlay("local"), "Role", "cliptea-train-step"))
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
def watching(monkeypatch) -> None:
    """A command that follows a run quickly, where neither store, MLflow nor Kubernetes is named."""
    for name in ("CLIPTEA_STORE", "CLIPTEA_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "CLIPTEA_EVENTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    monkeypatch.setattr(watch.wait, "__defaults__", ("", QUICK))


@pytest.fixture
def store(tmp_path, watching, monkeypatch) -> Store:
    """The store that the steps write to, named here."""
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    (tmp_path / "store").mkdir()
    return open_store()
