"""A sweep in all steps of a run: one set of tokens, one student for each trial, and the choice by held-out images."""

import json
import re

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from small_run import SMALL

from cliptea import settings
from cliptea.steps.compare import compare_variants
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.promote import promote_best
from cliptea.steps.resolve import start_run
from cliptea.steps.split import log_splits, make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import read_uri
from cliptea.tracking.runs import ChildRun

SWEEP = {"trials": "3", "seed": "1", "space": {"train.lr": {"low": "1e-4", "high": "1e-1", "log": "true"}}}
GIVEN = [*SMALL[1:], "variants=[mine.yaml]", "train.validate_every=1", "train.held_out=0.5", "train.keep=best"]


@pytest.mark.long
def test_a_sweep_trains_its_trials_on_the_same_tokens_and_promotes_the_best(tmp_path, monkeypatch, empty_database):
    torch.set_num_threads(1)
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(ChildRun, "log_model", lambda self, files, description: None)  # seconds, and nothing reads it

    (tmp_path / "mine.yaml").write_text(json.dumps({"lr": {"sweep": SWEEP}}))
    run = start_run("smoke", GIVEN, "job")
    splits = make_splits(run)
    log_splits(run, splits)
    cache = publish_cache(run, splits)
    models = {
        variant.label: train_variant(TrainInputs(run=run, variant=variant, splits=splits, teacher=cache))
        for variant in run.variants
    }
    evaluated = [evaluate_variant(run, one, splits, cache, models[one.label]) for one in run.variants]
    compared = compare_variants(run, splits, cache, evaluated)
    decided = promote_best(run, compared)

    assert len({model.fingerprint for model in models.values()}) == 3
    assert len([*(tmp_path / "store/tokens").iterdir()]) == 1
    held_out = {label: model.info["validation"]["heldout_miou_seen"] for label, model in models.items()}
    assert len(set(held_out.values())) > 1
    best = max(held_out, key=held_out.get)
    rows = json.loads(read_uri(compared.results, compared.hashes["results"]))
    assert {f"mine/{row['variant']}": row["heldout_miou_seen"] for row in rows} == held_out
    assert [row["trial"] for row in rows] == [
        {"sweep": "lr", "settings": {"train.lr": variant.config.train.lr}} for variant in run.variants
    ]

    client = MlflowClient()
    version = client.get_model_version(decided.model, decided.version)
    assert f"mine/{version.tags['variant']}" == best
    table = mlflow.artifacts.load_dict(f"runs:/{run.tracking_run}/sweeps.json")
    lines = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    assert [line["heldout_miou_seen"] for line in lines] == sorted(held_out.values(), reverse=True)
    assert [line["best"] for line in lines] == [True, False, False]
    assert client.get_run(rows[0]["mlflow_run_id"]).data.tags["sweep"] == "mine/lr"
    page = read_uri(compared.report, compared.hashes["report"]).decode()
    section = page.partition('<section id="sweeps">')[2].partition("</section>")[0]
    assert section.index(best.partition("/")[2].split()[0]) == min(
        section.index(label.partition("/")[2].split()[0]) for label in held_out
    )
    assert re.search(r"CLIP saw 8 views once for all 3 students of this sweep, in .* of one CPU core\.", section)
    assert cache.clip.views == 8
    parent = client.get_run(run.tracking_run).data
    assert parent.metrics["clip_hours"] == pytest.approx(cache.clip.seconds / 3600)
    assert parent.tags["clip_device"] == "CPU core"

    again = start_run("smoke", GIVEN, "job")
    assert again.fingerprint == run.fingerprint
    assert settings.load("smoke", GIVEN) == run.config
    for variant in again.variants:
        found = train_variant(TrainInputs(run=again, variant=variant, splits=splits, teacher=cache))
        assert found == models[variant.label]
