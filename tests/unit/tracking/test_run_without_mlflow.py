"""A run during which a real MLflow server is away from evaluate on, and back while promote waits for it."""

import io
import json
import threading
import time

import numpy as np
import pytest
from mlflow import MlflowClient

from cliptea import outage, settings
from cliptea.data.catalogue import Catalogue
from cliptea.data.shard_sets import put_top_index
from cliptea.manifest import Contents, Manifest, publish, put_object
from cliptea.report import page
from cliptea.run import Run, expand
from cliptea.steps import compare, evaluate, gather, scores_entry
from cliptea.steps.promote import promote_best
from cliptea.steps.speed import inputs_of, speed_output
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import open_store
from cliptea.teacher.outputs import clustering_key
from cliptea.tracking import deferred
from cliptea.tracking.runs import ChildRun, open_parent

POINTS = [{"iteration": n, "total": n / 7} for n in (2, 4)]


@pytest.fixture
def run(client):
    config = settings.load("smoke", ["variants=[baselines/full]"])
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="", variants=expand(config))
    return run.model_copy(update={"tracking_run": open_parent(run)})


@pytest.fixture
def inputs(client, run, monkeypatch):
    """Of evaluate: what earlier steps have left, in small; the model itself is not the matter here."""
    store = open_store()
    catalogue = Catalogue(classes=["a", "b"], unseen=["b"]).model_dump()
    counts = {"train": {"images": 3, "classes": {}}}
    shards = put_top_index(store, "split/s/val", [])
    info = {"catalogue": catalogue, "counts": counts}
    split = Manifest(kind="split", fingerprint="s", objects=shards, info=info)
    weights = {"text.safetensors": put_object(store, "text/x/text.safetensors", b"text")}
    text = Manifest(kind="text", fingerprint="x", objects=weights)
    regions = Manifest(kind="regions", fingerprint="r", info={"regions_per_view": 3.0})
    key = clustering_key(run.config.method.clustering)
    tokens = Manifest(kind="tokens", fingerprint="t", info={"stand_in": False, "clip_sha256": ""})
    cache = TeacherCache(tokens=tokens, regions={key: regions}, text={"demo": text})
    objects = {
        "model.safetensors": put_object(store, "train/m/model.safetensors", b"model"),
        "history.json": put_object(store, "train/m/history.json", json.dumps(POINTS).encode()),
    }
    info = {"images_per_second": 2.0, "data_wait": 0.1, "parameters": 7, "backbone": "demo_fpn", "dim": 8}
    trained = Manifest(kind="train", fingerprint="m", objects=objects, info=info)
    scores = dict.fromkeys(("pAcc", "miou_seen", "miou_unseen", "hiou"), 0.5)
    splits = Splits(own=split)
    confusion = io.BytesIO()
    np.savez_compressed(confusion, confusion=np.eye(2, dtype=np.int64))
    figures = {evaluate.FIGURES: put_object(store, "evaluate/e/figures.npz", confusion.getvalue())}
    (task,) = evaluate.evaluation_tasks(run.config, splits, cache)
    info = {"scores": scores, "per_class": {"a": 0.5, "b": 0.5}, "sweep": {}}
    publish(store, evaluate.scores_output(run.config, task, trained), Contents(figures, info, inputs_of(trained)))
    publish(store, speed_output(run.config, task.text, trained), Contents({}, SPEED, inputs_of(trained)))
    monkeypatch.setattr(scores_entry, "demo_fingerprint", lambda config: "demo")
    monkeypatch.setattr(ChildRun, "log_model", lambda self, files, description: self.log_files(files, "model"))
    monkeypatch.setattr(gather, "gather_context", lambda *given: Context(given[-2]))
    monkeypatch.setattr(page, "build_report", lambda context: "a report")
    return splits, cache, trained


SPEED = {
    "device": "CPU", "threads": 1, "precision": "float32", "size": "64x64", "latency_ms": 4.0,
    "images_per_second": 300.0, "peak_memory_mib": None, "parameters": 7, "gflops": 0.25,
}  # fmt: skip


class Context:
    def __init__(self, evaluated):
        self.rows = [row for item in evaluated for row in item.rows]


@pytest.mark.parametrize("tracking_uri", ["server"], indirect=True)
def test_a_run_without_mlflow_from_evaluate_on_ends_complete_and_promoted(run, inputs, server, monkeypatch, capfd):
    splits, cache, trained = inputs
    monkeypatch.setattr(deferred, "SHORT_SECONDS", 0.5)
    monkeypatch.setattr(outage, "LONGEST_PAUSE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "100")
    monkeypatch.delenv("CLIPTEA_EVENTS")
    server.kill()
    scored = evaluate.evaluate_variant(run, run.variants[0], splits, cache, trained)
    comparison = compare.compare_variants(run, splits, cache, [scored])
    assert comparison.rows[0].mlflow_run_id == ""
    threading.Timer(3, server.start).start()
    began = time.monotonic()
    decision = promote_best(run, comparison)
    assert time.monotonic() - began > 3
    assert decision.promoted is True
    mlflow = MlflowClient()
    version = mlflow.get_model_version_by_alias(decision.model, "champion")
    child = mlflow.get_run(version.run_id)
    assert child.info.status == "FINISHED"
    assert child.data.metrics["hiou"] == 0.5
    speeds = {"throughput/training_images_per_second": 2.0, "inference/latency_ms": 4.0, "inference/gflops": 0.25}
    assert {name: child.data.metrics[name] for name in speeds} == speeds
    assert "inference/peak_memory_mib" not in child.data.metrics  # of a CPU
    assert (child.data.tags["inference_device"], child.data.tags["inference_size"]) == ("CPU", "64x64")
    assert [point.step for point in mlflow.get_metric_history(version.run_id, "loss/total")] == [2, 4]
    assert child.data.tags["mlflow.parentRunId"] == run.tracking_run
    assert mlflow.get_run(run.tracking_run).data.metrics["hiou"] == 0.5
    logged = json.loads(mlflow.load_table(child.info.experiment_id, "variants.json", [run.tracking_run]).to_json())
    assert (logged["inference_device"], logged["inference_latency_ms"]) == ({"0": "CPU"}, {"0": 4.0})
    assert logged["model_uri"] == {"0": f"runs:/{version.run_id}/model"}
    (row,) = json.loads(open_store().get(comparison.results.partition("/store/")[2]))
    assert (row["mlflow_run_id"], row["model_uri"]) == (version.run_id, f"runs:/{version.run_id}/model")
    assert list(open_store().entries("untold")) == []
    said = capfd.readouterr().err
    assert said.count(" does not answer (") >= 1
    assert "answers again, after" in said
    assert "run the same again" not in said
