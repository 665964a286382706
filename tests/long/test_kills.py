"""A run that is killed (SIGKILL) once in every step ends with the scores of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

STEPS = ["resolve", "split", "tokens", "teacher", "train", "evaluate", "compare", "promote"]
SMALL = ["--set", "variants=[backbones/demo_fpn, baselines/seen_only]", "--set", "train.iterations=12"]


def start(workdir):
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [
        sys.executable,
        "-m",
        "cliptea_pipeline.cli",
        "run",
        "--preset",
        "smoke",
        *SMALL,
        "--workdir",
        str(workdir),
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(workdir):
    process = start(workdir)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def scores(workdir):
    rows = json.loads((Path(workdir) / "results.json").read_text())
    return {(r["group"], r["variant"], r["seed"]): (r["pAcc"], r["miou_seen"], r["miou_unseen"]) for r in rows}


def runs(workdir):
    client = MlflowClient(f"sqlite:///{workdir}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("cliptea")
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.long
def test_scores_and_tracking_survive_a_kill_in_every_step(tmp_path):
    finished(tmp_path / "calm")
    wild = tmp_path / "wild"
    for step in STEPS:
        process = start(wild)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(step) and "started" in line:
                time.sleep(1.0 if step in ("tokens", "train") else 0.1)
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, "".join(lines)
        time.sleep(5)  # the orphans notice, and let go of the lock
    finished(wild)

    calm, wild_scores = scores(tmp_path / "calm"), scores(wild)
    assert calm.keys() == wild_scores.keys()
    for key, values in calm.items():
        assert wild_scores[key] == pytest.approx(values, abs=1e-6), key
    _, calm_runs = runs(tmp_path / "calm")
    client, wild_runs = runs(wild)
    assert sorted(r.info.run_name for r in wild_runs) == sorted(r.info.run_name for r in calm_runs)
    assert {r.info.status for r in wild_runs} == {"FINISHED"}
    for run in wild_runs:
        if "mlflow.parentRunId" in run.data.tags:
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss/total")]
            assert sorted(steps) == [2, 4, 6, 8, 10, 12]
