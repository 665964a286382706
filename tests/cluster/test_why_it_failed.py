"""`cliptea submit --wait` says of a failed run which step failed, of which variant, why, and where more is."""

import json

import pytest
from replay import recorded
from watched import RUN, followed, write

from cliptea.log_lines import Who, json_line

pytestmark = pytest.mark.usefixtures("watching")

FAILED_NODE, CANCELLED_NODE = "cliptea-mvm76-1488963256", "cliptea-v2kzz-1587427287"
LOG = """I1125 21:25:19.480123       1 launcher_v2.go:205] PublishInProgress
[KFP Executor 2026-11-25 21:25:20,001 INFO]: error: not a line of ours
resolve: started
resolve: failed after 0.3 s: data.root=s3://cliptea/none holds no images; expected a folder
error: data.root=s3://cliptea/none holds no images; expected a folder
F1125 21:25:21.480123       1 main.go:58] failed to execute component: exit status 1
"""
WHO, WHY = Who("resolve", "", RUN), "data.root=s3://cliptea/none holds no images; expected a folder"
JSON_LOG = "\n".join(
    [
        *LOG.splitlines()[:2],  # of Pipelines, which are never JSON
        json_line("info", "started", WHO, event="start"),
        json_line("error", f"failed after 0.3 s: {WHY}", WHO, event="failed", seconds=0.3, trace=""),
        json_line("error", WHY, WHO),
        *LOG.splitlines()[-1:],
    ]
)


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


@pytest.mark.parametrize("log", [LOG, JSON_LOG], ids=["text", "json"])
def test_why_it_failed_by_the_log(pipelines, monkeypatch, log):
    pipelines.life = recorded("failed")
    pipelines.logs[FAILED_NODE] = log
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


def test_the_variant_is_read_from_a_log_of_json(pipelines):
    pipelines.life = recorded("cancelled")
    del pipelines.life["state_history"][2]  # as if a step had failed
    who = Who("train", "backbones/demo_fpn", RUN)
    log = json_line("info", "started", who, event="start") + "\n"
    pipelines.logs[CANCELLED_NODE] = log + json_line("error", "one", who) + "\n" + json_line("error", "two", who)
    assert "error: train backbones/demo_fpn: two\n" in followed().stderr
    pipelines.logs[CANCELLED_NODE] = log
    assert "error: train backbones/demo_fpn: it ended without an error message; " in followed().stderr


def test_the_command_itself_tells_why_as_json(pipelines):
    pipelines.life = recorded("failed")
    pipelines.logs[FAILED_NODE] = JSON_LOG
    ended = followed("--log-format", "json")
    told = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.exit_code == 1
    assert (told[-2]["level"], told[-2]["message"], told[-2]["run"]) == ("error", f"resolve: {WHY}", RUN)
    assert told[-1]["message"].startswith("read its log with: curl ")
    shown = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {line["run"] for line in shown} == {RUN}
    assert ("resolve", "error") in {(line["step"], line["level"]) for line in shown}


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
