"""The whole pipeline on an MLflow server that is lost while a student learns, and no secret in what it is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow_server
import pytest
from mlflow import MlflowClient
from storage.s3_server import SECRET

ROOT = Path(__file__).resolve().parents[2]
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "a-planted-key",
    "MLFLOW_TRACKING_USERNAME": "somebody",
    "MLFLOW_TRACKING_PASSWORD": "a-planted-password",
    "KFP_TOKEN": "a-planted-token",
    "CLIPTEA_WEBHOOK": "http://127.0.0.1:9/a-planted-webhook",
}
SECRETS = [SECRET, mlflow_server.DATABASE_SECRET, *(text for text in PLANTED.values() if "planted" in text)]

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(mlflow_server.missing()), reason=mlflow_server.missing()),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Folder, a client of the server, the run that lost it, and the same run again."""
    folder = tmp_path_factory.mktemp("run")
    with mlflow_server.running(folder) as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CLIPTEA_"))}
        environment |= PLANTED | {
            "MLFLOW_TRACKING_URI": server.uri,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("components", "pipeline")),
            "COLUMNS": "120",
            "CLIPTEA_PATIENCE": "5",
        }
        command = [sys.executable, "-m", "cliptea_pipeline.cli", "run", "--preset", "smoke"]
        command += ["--workdir", str(folder / "w"), "--set", "variants=[backbones/demo_fpn, baselines/seen_only]"]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lost = ""
        for line in process.stdout:
            lost += line
            if line.startswith("train") and "started" in line:
                server.kill()
        process.wait(600)
        report = (folder / "w/report.html").is_file()
        server.start()
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        yield folder, MlflowClient(server.uri), (process.returncode, lost, report), again


def test_no_training_is_lost_with_the_server(ended):
    folder, _, (code, lost, report), again = ended
    assert code == 1
    assert "loss curves could not be logged and will be logged later" in lost
    assert lost.count("warning: scores and model of ") == 2
    (error,) = [line for line in lost.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: promote: MLflow does not answer at ")
    assert report
    assert again.returncode == 0, again.stdout + again.stderr
    trained = [line for line in again.stdout.splitlines() if line.startswith("train") and " in " in line]
    assert len(trained) == 2
    assert all("reused" in line for line in trained)
    assert len(json.loads((folder / "w/results.json").read_text())) == 2


def test_everything_is_on_the_server_once(ended):
    _, client, *_ = ended
    experiment = client.get_experiment_by_name("cliptea").experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert (len(runs), len(children)) == (3, 2)
    for child in children:
        speeds = {"throughput/training_images_per_second", "inference/latency_ms", "inference/gflops"}
        assert {"hiou", "miou_seen", "miou_unseen", "pacc", "train/epoch"} | speeds <= set(child.data.metrics)
        history = client.get_metric_history(child.info.run_id, "loss/total")
        assert sorted(metric.step for metric in history) == [2, 4, 6, 8]
        assert {item.path for item in client.list_artifacts(child.info.run_id)} == {"figures", "model"}
        assert [item.dataset.name for item in child.inputs.dataset_inputs] == ["demo"]
    assert client.get_model_version_by_alias("cliptea-smoke", "champion").run_id in {c.info.run_id for c in children}


def test_no_secret_is_left_anywhere(ended):
    folder, client, (_, lost, _), again = ended
    experiment = client.get_experiment_by_name("cliptea").experiment_id
    told = [str(run.to_dictionary()) for run in client.search_runs([experiment])]
    told += [str(dict(version)) for version in client.search_model_versions("name = 'cliptea-smoke'")]
    assert len(told) == 4
    for secret in SECRETS:
        assert not [text for text in [*told, lost, again.stdout, again.stderr] if secret in text]
        assert not [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    artifacts = [path for path in (folder / "s3").rglob("*") if path.is_file()]
    assert len(artifacts) > 50  # the server's, which were searched as well
