from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_kubernetes import FakeKubernetes
from fake_pipelines import FakePipelines
from k8s.manifests import granted, one, overlay


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
