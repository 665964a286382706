"""What Pipelines compares of runs: the metrics of evaluate and compare."""

from types import SimpleNamespace

import pytest
from kfp import dsl

from cliptea.evaluation.results import ResultRow
from cliptea.manifest import StoredObject
from cliptea.steps import common
from cliptea.steps import compare as comparing
from cliptea.steps import evaluate as evaluating
from cliptea.steps.evaluate import Evaluated

ROW = ResultRow(
    variant="full", group="table3", backbone="demo_fpn", dataset="demo", seed=0, iterations=3, gamma=0.0, pAcc=0.9,
    miou_seen=0.75, miou_unseen=0.5, hiou=0.6, per_class={}, training_images_per_second=1.0, model_uri="",
    mlflow_run_id="",
)  # fmt: skip
SCORES = {"hiou": 0.6, "miou_seen": 0.75, "miou_unseen": 0.5}


@pytest.fixture
def run(monkeypatch):
    """The run that the steps are given, as they would read it."""
    made = SimpleNamespace(variant=lambda label: label)
    monkeypatch.setattr(common, "run_step", lambda name, work, **about: work(made))
    monkeypatch.setattr(common, "read", lambda artifact, model: artifact)
    monkeypatch.setattr(common, "write", lambda artifact, handed: None)
    return made


def test_evaluate_tells_the_scores_of_its_student(run, monkeypatch):
    history, metrics = StoredObject(key="k", size=1, sha256="0" * 64), dsl.Metrics()
    made = Evaluated(rows=[ROW], telling="t", manifests={}, history=history, protocol="p")
    monkeypatch.setattr(evaluating, "evaluate_variant", lambda *given: made)
    evaluating.evaluate.python_func(None, None, None, None, "table3/full", None, metrics)
    assert metrics.metadata == SCORES


def test_compare_tells_the_scores_of_the_best_student(run, monkeypatch, tmp_path):
    (tmp_path / "r.html").write_text("report")
    made = SimpleNamespace(report=(tmp_path / "r.html").as_uri(), hashes={"report": None}, best=SCORES)
    monkeypatch.setattr(comparing, "compare_variants", lambda *given: made)
    monkeypatch.setattr("cliptea.storage.read_uri", lambda uri, sha256: b"report")
    metrics, report = dsl.Metrics(), SimpleNamespace(path=tmp_path / "out.html")
    comparing.compare.python_func(None, None, None, [], None, report, metrics)
    assert (metrics.metadata, report.path.read_text()) == (SCORES, "report")
