"""Settings that a compiled pipeline cannot run are refused before a server is asked."""

import re

import pytest
from compiled import compiled_text
from typer.testing import CliRunner

from cliptea_pipeline.cli import app


def call(*arguments):
    return CliRunner().invoke(app, arguments)


FIT = {
    "batch": (
        {"launcher": "trainjob", "train_job": {"nodes": 2}, "steps": {"train": {"gpus": 4}}},
        ["--preset", "smoke"],
        r"train.batch_size=4 cannot be divided into 8 equal parts \(2 nodes of 4 processes\); expected a multiple of 8",
    ),
    "a batch in parts": (
        {"launcher": "trainjob", "train_job": {"nodes": 4}},
        ["--preset", "smoke", "--set", "train.batch_size=8", "--set", "train.accumulate=4"],
        r"train.batch_size=8 cannot be divided into 16 equal parts \(4 nodes of 1 process times train.accumulate=4\)",
    ),
    "idle GPUs": (
        {"steps": {"train": {"gpus": 4}}},
        ["--preset", "smoke"],
        r"the step train 4 GPUs, but train.processes=1 uses only 1; .* add --set train.processes=4",
    ),
    "idle GPUs of CLIP": (
        {"steps": {"tokens": {"gpus": 2}}},
        ["--preset", "smoke"],
        r"the step tokens 2 GPUs, but teacher.num_workers=1 uses only 1",
    ),
    "no data": ({}, ["--preset", "voc12"], r"data.root is not set; .* add --set data.root=s3://BUCKET/FOLDER"),
    "data here": (
        {},
        ["--preset", "voc12", "--set", "data.root=/home/me/VOC"],
        r"data.root=/home/me/VOC is on this machine, where pods cannot read it; expected an s3:// address",
    ),
    "weights here": (
        {},
        ["--preset", "smoke", "--set", "teacher.weights=ViT-B-16.pt"],
        r"teacher.weights=ViT-B-16.pt is on this machine",
    ),
    "backbone here": (
        {},
        ["--preset", "smoke", "--set", "student.pretrained.segformer_b0=b0.safetensors"],
        r"student.pretrained.segformer_b0=b0.safetensors is on this machine",
    ),
    "model here": (
        {},
        ["--preset", "smoke", "--set", "train.init_from=my_model"],
        r"train.init_from=my_model is on this machine, where pods cannot read it",
    ),
    "too many students": (
        {"students": 12, "token_parts": 4},
        ["--preset", "smoke", "--set", "seeds=3"],
        r"12 students .* too many for one run .* at most 10 in each, the placement's `students` minus half of its "
        "`token_parts`; start 2 runs with one comparison: cliptea submit --split 2; or .* raise `students`",
    ),
    "too many for the default": (
        {},
        ["--preset", "smoke", "--set", "seeds=26"],
        r"104 students \(variants times seeds\) are too many .* 1 MiB; expected at most 100 .*start 2 runs",
    ),
    "further data": (
        {},
        ["--preset", "smoke", "--set", "evaluation.sets.voc12.root=VOC"],
        r"evaluation.sets.voc12.root=VOC is on this machine",
    ),
}


@pytest.mark.parametrize("command", [("submit",), ("schedule", "--cron", "@daily")], ids=["submit", "schedule"])
@pytest.mark.parametrize(("placement", "arguments", "says"), FIT.values(), ids=FIT)
def test_settings_that_the_pipeline_cannot_run(tmp_path, monkeypatch, placement, arguments, says, command):
    """One line, before a server is asked: none is named here."""
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    compiled(placement, tmp_path)
    ended = call(*command, *arguments, "--pipeline", str(tmp_path / "p.yaml"))
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert re.search(says, ended.output)


@pytest.mark.parametrize(
    ("placement", "arguments"),
    [
        ({"launcher": "trainjob", "train_job": {"nodes": 2}, "steps": {"train": {"gpus": 2}}}, ["--preset", "smoke"]),
        ({"steps": {"train": {"gpus": 2}}}, ["--preset", "smoke", "--set", "train.processes=2"]),
        ({}, ["--preset", "smoke", "--set", "seeds=25"]),
        ({"students": 200}, ["--preset", "smoke", "--set", "seeds=26"]),
        ({}, ["--preset", "voc12", "--set", "data.root=s3://b/voc", "--set", "teacher.weights=s3://b/clip.pt"]),
        ({"store": "file:///mnt/store"}, ["--preset", "voc12", "--set", "data.root=/mnt/voc"]),
    ],
)
def test_settings_that_it_can_run(pipelines, tmp_path, placement, arguments):
    compiled(placement, tmp_path)
    assert call("submit", *arguments, "--pipeline", str(tmp_path / "p.yaml")).exit_code == 0


def compiled(placement, folder):
    (folder / "p.yaml").write_text(compiled_text(placement | {"image": "host/cliptea:1"}))
