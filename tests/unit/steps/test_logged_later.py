"""While MLflow is away steps do their work; what it missed is noted, and told once by whichever step finds it back."""

import json

import pytest
from cliptea.teacher.cache import TeacherCache

from cliptea import progress, settings
from cliptea.data.catalogue import Catalogue
from cliptea.data.split_shards import Splits
from cliptea.evaluation import compare, evaluate
from cliptea.manifest import Manifest, put_object
from cliptea.report import gather, page
from cliptea.run import Run, expand
from cliptea.storage import FileStore, open_store
from cliptea.tracking import data
from cliptea.tracking.address import TrackingError


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_STORE", tmp_path.as_uri())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)
    monkeypatch.setattr(gather, "gather_context", lambda *given: Context(given[-2]))
    monkeypatch.setattr(page, "build_report", lambda context: " ".join(row.mlflow_run_id for row in context.rows))
    return open_store()


class Context:
    def __init__(self, evaluated):
        self.rows = [row for item in evaluated for row in item.rows]


@pytest.fixture
def run():
    config = settings.load("smoke", ["variants=[backbones/demo_fpn]"])
    return Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=expand(config))


@pytest.fixture
def back(monkeypatch):
    """Have MLflow back from now on; returns what it is told, in order."""

    def come_back():
        said = []

        def teller(name, facts):
            def tell(*arguments, **named):
                said.append(name)
                return facts

            return tell

        monkeypatch.setattr(data, "tell_data", teller("data", {}))
        monkeypatch.setattr(evaluate, "tell_scores", teller("scores", {"mlflow_run_id": "child"}))
        monkeypatch.setattr(compare, "_track", teller("report", None))
        return said

    return come_back


def teacher():
    tokens = Manifest(kind="tokens", fingerprint="t", info={"stand_in": False})
    return TeacherCache(tokens=tokens, regions={}, text={"demo": Manifest(kind="text", fingerprint="x")}).model_dump()


def splits():
    catalogue = Catalogue(classes=["a", "b"], unseen=["b"]).model_dump()
    counts = {"train": {"images": 3, "classes": {}}}
    own = Manifest(kind="split", fingerprint="s", info={"catalogue": catalogue, "counts": counts})
    return Splits(own=own).model_dump()


def evaluated(store, run, monkeypatch):
    scores = dict.fromkeys(("pAcc", "miou_seen", "miou_unseen", "hiou"), 0.5)
    scored = Manifest(kind="evaluate", fingerprint="e", info={"scores": scores, "per_class": {"a": 0.5, "b": None}})
    objects = {name: put_object(store, f"train/{name}", b"[]") for name in ("model.safetensors", "history.json")}
    model = Manifest(kind="train", fingerprint="m", objects=objects, info={"images_per_second": 2.0})
    with monkeypatch.context() as found:
        found.setattr(evaluate, "find", lambda *_: scored)
        return evaluate.evaluate_variant(run, run.variants[0].model_dump(), splits(), teacher(), model.model_dump())


def compared(run, evaluations):
    return compare.compare_variants(run, splits(), teacher(), evaluations)


def results(store, comparison):
    (row,) = json.loads(store.get(comparison["results"].removeprefix(store.uri("") + "/")))
    return row["mlflow_run_id"], row["model_uri"]


def left(store):
    return [entry.key for entry in store.entries("untold")]


def test_scores_are_handed_on_and_noted_and_logged_by_the_next_run(store, run, back, monkeypatch, capsys):
    (row,) = evaluated(store, run, monkeypatch)["rows"]
    told = capsys.readouterr().err
    assert (
        "warning: scores and model of backbones/demo_fpn: kept, and told by compare or promote when MLflow is" in told
    )
    assert told.count("\n") == 1
    assert (row["hiou"], row["mlflow_run_id"]) == (0.5, "")
    assert row["model_uri"] == store.uri("train/model.safetensors")
    assert len(left(store)) == 1
    said = back()
    for _ in range(2):
        (row,) = evaluated(store, run, monkeypatch)["rows"]
        assert (row["model_uri"], row["mlflow_run_id"]) == ("runs:/child/model", "child")
    assert said == ["scores"]
    compare.catch_up(run)
    assert said == ["scores"]
    assert left(store) == []


def test_compare_tells_what_was_noted_and_names_the_models(store, run, back, monkeypatch):
    data.log_data(run, splits())
    evaluations = [evaluated(store, run, monkeypatch)]
    said = back()
    made = compared(run, evaluations)
    assert said == ["data", "scores", "report"]
    assert results(store, made) == ("child", "runs:/child/model")
    assert made["rows"][0]["mlflow_run_id"] == "child"
    reused = []
    monkeypatch.setattr(progress, "reused", lambda: reused.append(1))
    assert compared(run, evaluations) == made
    assert (said, reused, left(store)) == (["data", "scores", "report"], [1], [])


def test_promote_tells_what_was_noted_and_the_report_names_the_models(store, run, back, monkeypatch, capsys):
    data.log_data(run, splits())
    made = compared(run, [evaluated(store, run, monkeypatch)])
    assert results(store, made)[0] == ""
    assert len(left(store)) == 3
    with pytest.raises(TrackingError) as away:
        compare.catch_up(run)
    assert away.value.temporary
    said = back()
    compare.catch_up(run)
    assert said == ["data", "scores", "report"]
    assert results(store, made) == ("child", "runs:/child/model")  # at the same place
    compare.catch_up(run)
    assert (said, left(store)) == (["data", "scores", "report"], [])
    assert "run the same again" not in capsys.readouterr().err


def test_a_report_without_models_is_not_told_although_mlflow_is_just_back(store, run, back, monkeypatch):
    evaluations = [evaluated(store, run, monkeypatch)]
    said = []

    def back_too_late(run, seconds):
        said.append(back())
        raise TrackingError("Connection refused")

    monkeypatch.setattr(compare, "catch_up", back_too_late)
    compared(run, evaluations)
    assert said == [[]]
    assert len(left(store)) == 2


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_it_goes_on(store, run, back, monkeypatch, moment):
    evaluations = [evaluated(store, run, monkeypatch)]
    made = compared(run, evaluations)
    said, done = back(), []

    def mortal(work):
        def change(*arguments):
            if len(done) == moment:
                raise KeyboardInterrupt
            done.append(1)
            return work(*arguments)

        return change

    with monkeypatch.context() as dying:
        for name in ("put", "delete"):
            dying.setattr(FileStore, name, mortal(getattr(FileStore, name)))
        with pytest.raises(KeyboardInterrupt):
            compare.catch_up(run)
    compare.catch_up(run)
    assert results(store, made) == ("child", "runs:/child/model")
    assert left(store) == []
    assert (said.count("scores"), said.count("report")) in {(1, 1), (2, 1), (1, 2)}  # once, but for the one it died in


def test_a_refusal_is_no_outage(store, run, monkeypatch):
    evaluated(store, run, monkeypatch)

    def full(*arguments, **named):
        raise OSError("no space left on device")

    monkeypatch.setattr(evaluate, "tell_scores", full)
    with pytest.raises(TrackingError, match=r"cannot be used \(no space left on device\)") as refused:
        compare.catch_up(run)
    assert not refused.value.temporary
