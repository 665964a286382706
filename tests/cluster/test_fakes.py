"""The fakes refuse what the true servers would not know, and say so when they themselves would send it."""

import json
import urllib.request
from contextlib import suppress

import pytest
from lives import NAME

from cliptea.cluster.job import build
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import ClusterError, connect


def test_a_trainjob_with_a_misspelt_field(kubernetes):
    job = build("j", "g/a", "k", JobSettings(image="i:1"), Passed(), [])
    job["spec"]["trainer"]["numNode"] = 2
    with pytest.raises(ClusterError, match=r"answers 422 to create trainjobs: TrainJob: .* comes back as"):
        connect().create(job)
    assert (len(kubernetes.wrong), kubernetes.created) == (1, [])
    kubernetes.wrong.clear()


def test_a_pod_with_a_misspelt_field(kubernetes):
    connect().create(build("j", "g/a", "k", JobSettings(image="i:1"), Passed(), []))
    kubernetes.pod("p0", "Failed", reasons="Evicted")
    with pytest.raises(ClusterError, match="answers 422 to list pods: PodList"):
        connect().pods(NAME)
    kubernetes.wrong.clear()


@pytest.mark.parametrize("body", [{"display_names": "a"}, {"display_name": "a", "runtime_config": {"parameter": {}}}])
def test_a_run_with_a_misspelt_field(pipelines, body):
    request = urllib.request.Request(f"{pipelines.url}/apis/v2beta1/runs", json.dumps(body).encode(), method="POST")
    with suppress(OSError):
        urllib.request.urlopen(request)
    assert (len(pipelines.wrong), pipelines.held["runs"]) == (1, [])
    pipelines.wrong.clear()
