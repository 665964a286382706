"""`cliptea submit --wait` says of a failed run which step failed, of which variant, why, and where more is."""

import pytest
from replay import recorded
from watched import RUN, followed, write

pytestmark = pytest.mark.usefixtures("watching")

FAILED_NODE, CANCELLED_NODE = "cliptea-mvm76-1488963256", "cliptea-v2kzz-1587427287"
LOG = """I1125 21:25:19.480123       1 launcher_v2.go:205] PublishInProgress
[KFP Executor 2026-11-25 21:25:20,001 INFO]: error: not a line of ours
resolve: started
resolve: failed after 0.3 s: data.root=s3://cliptea/none holds no images; expected a folder
error: data.root=s3://cliptea/none holds no images; expected a folder
F1125 21:25:21.480123       1 main.go:58] failed to execute component: exit status 1
"""


def test_why_it_failed_by_the_store(pipelines, store):
    pipelines.life, pipelines.looks = recorded("failed"), 6
    write("train", "table3/full", state="failed", text="CUDA is out of memory; expected less")
    write("resolve", state="failed", text="no images")
    pipelines.logs[FAILED_NODE] = LOG
    ended = followed()
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[1:] == [
        "error: resolve: no images",
        f"  read its log with: curl {pipelines.url}/apis/v1alpha1/runs/{RUN}/nodes/{FAILED_NODE}/log",
        "error: train table3/full: CUDA is out of memory; expected less",
    ]


def test_why_it_failed_by_the_log(pipelines, monkeypatch):
    pipelines.life = recorded("failed")
    pipelines.logs[FAILED_NODE] = LOG
    pipelines.token = "hush"
    monkeypatch.setenv("KFP_TOKEN", "hush")
    ended = followed()
    assert (ended.exit_code, ended.stderr.splitlines()[1:]) == (
        1,
        [
            "error: resolve: data.root=s3://cliptea/none holds no images; expected a folder",
            '  read its log with: curl -H "Authorization: Bearer $KFP_TOKEN" '
            f"{pipelines.url}/apis/v1alpha1/runs/{RUN}/nodes/{FAILED_NODE}/log",
        ],
    )
    assert "hush" not in ended.output


def test_the_variant_is_read_from_the_log(pipelines):
    pipelines.life = recorded("cancelled")
    del pipelines.life["state_history"][2]  # as if a step had failed
    log = "train backbones/demo_fpn: started\ntrain backbones/demo_fpn: training 1/9 it\n"
    pipelines.logs[CANCELLED_NODE] = log + "error: one\nerror: two\n"
    assert "error: train backbones/demo_fpn: two\n" in followed().stderr
    pipelines.logs[CANCELLED_NODE] = log
    killed = "error: train backbones/demo_fpn: it ended without an error message; it may have been killed "
    assert killed in followed().stderr


def test_a_log_that_is_gone(pipelines):
    pipelines.life = recorded("failed")
    ended = followed()
    assert (ended.exit_code, ended.stderr.splitlines()[1:]) == (
        1,
        [
            "error: resolve: its log is gone, or it never ran; look for its pod with "
            f"`kubectl -n kubeflow get pods -l pipeline/runid={RUN}`"
        ],
    )
