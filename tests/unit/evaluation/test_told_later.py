"""While MLflow is away evaluate and compare do their work, and what it missed is told by the next run."""

import json

import pytest

from cliptea import runs, settings
from cliptea.data.catalogue import Catalogue
from cliptea.evaluation import compare, evaluate
from cliptea.manifest import Manifest, publish, put_object
from cliptea.storage import open_store
from cliptea.teacher.cache import TeacherCache


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    return open_store()


@pytest.fixture
def run():
    config = settings.load("smoke", ["variants=[backbones/demo_fpn]"])
    return runs.Run(
        config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=runs.expand(config)
    )


def teacher():
    tokens = Manifest(kind="tokens", fingerprint="t", info={"stand_in": False})
    return TeacherCache(tokens=tokens, regions={}, text={"demo": Manifest(kind="text", fingerprint="x")})


def evaluated(store, run, monkeypatch):
    catalogue = Catalogue(classes=["a", "b"], unseen=["b"]).model_dump()
    split = Manifest(
        kind="split", fingerprint="s", info={"catalogue": catalogue, "counts": {"train": {"images": 3, "classes": {}}}}
    )
    scores = dict.fromkeys(("pAcc", "miou_seen", "miou_unseen", "hiou"), 0.5)
    scored = Manifest(kind="evaluate", fingerprint="e", info={"scores": scores, "per_class": {"a": 0.5, "b": None}})
    objects = {name: put_object(store, f"train/{name}", b"[]") for name in ("model.safetensors", "history.json")}
    model = Manifest(kind="train", fingerprint="m", objects=objects, info={"images_per_second": 2.0})
    monkeypatch.setattr(evaluate, "find", lambda *_: scored)
    return evaluate.evaluate_variant(
        run, run.variants[0].model_dump(), {"own": split.model_dump()}, teacher().model_dump(), model.model_dump()
    )


def test_scores_are_handed_on_and_logged_by_the_next_run(store, run, monkeypatch, capsys):
    (row,) = evaluated(store, run, monkeypatch)["rows"]
    told = capsys.readouterr().err
    assert "warning: scores and model are kept, and logged by the next run of these settings: MLflow does" in told
    assert told.count("\n") == 1
    assert (row["hiou"], row["mlflow_run_id"]) == (0.5, "")
    assert row["model_uri"] == store.uri("train/model.safetensors")
    calls = []
    monkeypatch.setattr(evaluate, "_track", lambda *arguments: calls.append(1) or "child")
    for _ in range(2):
        (row,) = evaluated(store, run, monkeypatch)["rows"]
        assert (row["model_uri"], row["mlflow_run_id"]) == ("runs:/child/model", "child")
    assert len(calls) == 1


def test_the_report_is_there_and_logged_by_the_next_run(store, run, monkeypatch, capsys):
    def made(store, run, fp, *_):
        objects = {name: put_object(store, f"{fp}/{name}", name.encode()) for name in ("report.html", "results.json")}
        return publish(store, Manifest(kind="compare", fingerprint=fp, objects=objects))

    monkeypatch.setattr(compare, "_compare", made)
    evaluations = [evaluated(store, run, monkeypatch)]
    split = {"own": Manifest(kind="split", fingerprint="s").model_dump()}
    capsys.readouterr()
    first = compare.compare_variants(run, split, teacher().model_dump(), evaluations)
    assert "tables and report are kept, and logged by the next run" in capsys.readouterr().err
    assert store.get(first["report"].removeprefix(store.uri("") + "/")) == b"report.html"
    told = []
    monkeypatch.setattr(compare, "_track", lambda run, files, rows: told.append((sorted(files), len(rows))))
    for _ in range(2):
        assert compare.compare_variants(run, split, teacher().model_dump(), evaluations) == first
    assert told == [(["report.html", "results.json"], 1)]
    assert json.dumps(first["rows"])
