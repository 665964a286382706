"""While MLflow is away steps do their work; what it missed is kept, and logged once by whichever step finds it back."""

import json
from types import SimpleNamespace

import pytest

from cliptea import progress, settings
from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import dump_results
from cliptea.manifest import Contents, Manifest, publish, put_object
from cliptea.report import page
from cliptea.run import Run, expand
from cliptea.steps import compare, evaluate, gather
from cliptea.steps.evaluate import evaluate_variant
from cliptea.steps.evaluation_tasks import evaluation_tasks, scores_output
from cliptea.steps.scores_entry import ScoresEntry
from cliptea.steps.speed import inputs_of, speed_output
from cliptea.steps.split import DataEntry, Splits, log_splits
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import FileStore, open_store
from cliptea.teacher.outputs import clustering_key
from cliptea.tracking import mlflow_client, runs
from cliptea.tracking.address import MlflowAway
from cliptea.tracking.deferred import Receipt


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
    """Have MLflow back from now on; returns what is logged to it, in order."""

    def come_back():
        logged = []

        def log(name, **known):
            def logging(entry, run):
                logged.append(name)
                return Receipt(**known)

            return logging

        monkeypatch.setattr(DataEntry, "log", log("data"))
        monkeypatch.setattr(ScoresEntry, "log", log("scores", mlflow_run_id="child"))
        client = SimpleNamespace(log_artifacts=lambda run_id, folder, name: logged.append("report"))
        monkeypatch.setattr(mlflow_client, "connect", lambda: client)
        monkeypatch.setattr(runs, "log_best", lambda run, row: None)
        monkeypatch.setattr(runs, "log_table", lambda run_id, rows, name: None)
        return logged

    return come_back


def teacher():
    tokens = Manifest(kind="tokens", fingerprint="t", info={"stand_in": False})
    return TeacherCache(tokens=tokens, regions={}, text={"demo": Manifest(kind="text", fingerprint="x")})


def splits():
    catalogue = Catalogue(classes=["a", "b"], unseen=["b"]).model_dump()
    counts = {"train": {"images": 3, "classes": {}}}
    return Splits(own=Manifest(kind="split", fingerprint="s", info={"catalogue": catalogue, "counts": counts}))


SPEED = {
    "device": "CPU", "threads": 1, "precision": "float32", "size": "64x64", "latency_ms": 4.0,
    "images_per_second": 300.0, "peak_memory_mib": None, "parameters": 7, "gflops": 0.25,
}  # fmt: skip
SCORES = dict.fromkeys(("pAcc", "miou_seen", "miou_unseen", "hiou"), 0.5)
OTHER = {"scores": SCORES | {"hiou": 0.25}, "per_class": {"a": 0.5, "b": None}, "sweep": {}}


def evaluated(store, run, number=0, scores=SCORES, **facts):
    objects = {name: put_object(store, f"train/{name}", b"[]") for name in ("model.safetensors", "history.json")}
    model = Manifest(kind="train", fingerprint=f"m{number}", objects=objects, info={"images_per_second": 2.0, **facts})
    (task,) = evaluation_tasks(run.config, splits(), teacher())
    info = {"scores": scores, "per_class": {"a": 0.5, "b": None}, "sweep": {}}
    publish(store, scores_output(run.config, task, model), Contents({}, info, inputs_of(model)))
    publish(store, speed_output(run.config, task.text, model), Contents({}, SPEED, inputs_of(model)))
    return evaluate_variant(run, run.variants[number], splits(), teacher(), model)


def compared(run, evaluations):
    return compare.compare_variants(run, splits(), teacher(), evaluations)


def results(store, comparison):
    (row,) = json.loads(store.get(comparison.results.removeprefix(store.uri("") + "/")))
    return row["mlflow_run_id"], row["model_uri"]


def left(store):
    return [entry.key for entry in store.entries("untold")]


def test_scores_are_handed_on_and_noted_and_logged_by_the_next_run(store, run, back, monkeypatch, capsys):
    (row,) = evaluated(store, run).rows
    told = capsys.readouterr().err
    assert "warning: scores and model of backbones/demo_fpn could not be logged" in told
    assert told.count("\n") == 1
    assert (row.hiou, row.mlflow_run_id) == (0.5, "")
    assert row.model_uri == store.uri("train/model.safetensors")
    assert len(left(store)) == 1
    said = back()
    for _ in range(2):
        (row,) = evaluated(store, run).rows
        assert (row.model_uri, row.mlflow_run_id) == ("runs:/child/model", "child")
    assert said == ["scores"]
    compare.catch_up(run)
    assert said == ["scores"]
    assert left(store) == []


def test_a_student_with_other_weights_is_scored_and_logged_again(store, run, back, monkeypatch):
    """Training again on a GPU gives other weights under the same fingerprint, which only depends on settings."""
    evaluated(store, run)
    said, scored = back(), []
    monkeypatch.setattr(evaluate, "_score", lambda *_: scored.append("scores") or Contents({}, OTHER))
    monkeypatch.setattr(evaluate, "measure_speed", lambda *_: scored.append("speed") or Contents({}, SPEED))
    (row,) = evaluated(store, run).rows
    assert (row.hiou, scored, said) == (0.5, [], ["scores"])
    objects = {name: put_object(store, f"other/{name}", b"[0]") for name in ("model.safetensors", "history.json")}
    model = Manifest(kind="train", fingerprint="m0", objects=objects, info={"images_per_second": 2.0})
    (row,) = evaluate_variant(run, run.variants[0], splits(), teacher(), model).rows
    assert (row.hiou, scored, said) == (0.25, ["scores", "speed"], ["scores", "scores"])


def test_a_validated_student_tells_its_score_on_held_out_images(store, run, monkeypatch):
    told = []
    monkeypatch.setattr(evaluate, "log_or_defer", lambda store, run, entry: told.append(entry))
    (row,) = evaluated(store, run, data_wait=0.0).rows
    assert (row.iterations, row.heldout_miou_seen) == (run.config.train.iterations, None)
    found = {"iteration": 6, "heldout_miou_seen": 0.25, "validations": 4, "images": 3, "seconds": 1.5}
    (row,) = evaluated(store, run, data_wait=0.0, validation=found).rows
    assert (row.iterations, row.heldout_miou_seen) == (6, 0.25)
    assert json.loads(dump_results([row]))[0]["heldout_miou_seen"] == 0.25
    (task,) = evaluation_tasks(run.config, splits(), teacher())
    metrics = [entry.model_copy(update={"teacher": with_regions(run)})._metrics([task]) for entry in told]
    names = ("heldout_miou_seen", "kept_iteration", "throughput/validation_seconds")
    assert [metrics[1][name] for name in names] == [0.25, 6, 1.5]
    assert not any(name in metrics[0] for name in names)


def with_regions(run):
    key = clustering_key(run.config.method.clustering)
    regions = Manifest(kind="regions", fingerprint="r", info={"regions_per_view": 2.0})
    return teacher().model_copy(update={"regions": {key: regions}})


def test_the_loss_curves_of_the_report_hold_no_scores(store, run):
    points = [{"iteration": 2, "total": 3.0, "heldout_miou_seen": 0.5}, {"iteration": 4, "total": 1.0}]
    history = put_object(store, "train/h", json.dumps(points).encode())
    item = evaluated(store, run).model_copy(update={"history": history})
    assert gather._losses(store, item) == {"total": [(2, 3.0), (4, 1.0)]}


def test_compare_tells_what_was_noted_and_names_the_models(store, run, back, monkeypatch):
    log_splits(run, splits())
    evaluations = [evaluated(store, run)]
    said = back()
    made = compared(run, evaluations)
    assert said == ["data", "scores", "report"]
    assert results(store, made) == ("child", "runs:/child/model")
    assert made.rows[0].mlflow_run_id == "child"
    reused = []
    monkeypatch.setattr(progress, "reused", lambda: reused.append(1))
    assert compared(run, evaluations) == made
    assert (said, reused, left(store)) == (["data", "scores", "report"], [1], [])


@pytest.mark.parametrize("better", [0, 1])
def test_compare_hands_on_the_scores_of_the_best_student(store, run, better):
    scores = [SCORES | {"hiou": 0.25, "miou_unseen": 0.125}, SCORES | {"hiou": 0.375, "miou_unseen": 0.25}]
    config = settings.load("smoke", ["variants=[backbones/demo_fpn]", "seeds=2"])
    run = run.model_copy(update={"config": config, "variants": expand(config)})
    evaluations = [evaluated(store, run, number, scores[number == better]) for number in (0, 1)]
    assert compared(run, evaluations).best == {"hiou": 0.375, "miou_seen": 0.5, "miou_unseen": 0.25}


def test_promote_tells_what_was_noted_and_the_report_names_the_models(store, run, back, monkeypatch, capsys):
    log_splits(run, splits())
    made = compared(run, [evaluated(store, run)])
    assert results(store, made)[0] == ""
    assert len(left(store)) == 3
    with pytest.raises(MlflowAway) as away:
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
    evaluations = [evaluated(store, run)]
    said = []

    def back_too_late(run, seconds):
        said.append(back())
        raise MlflowAway("Connection refused")

    monkeypatch.setattr(compare, "catch_up", back_too_late)
    compared(run, evaluations)
    assert said == [[]]
    assert len(left(store)) == 2


@pytest.mark.parametrize("moment", range(6))
def test_killed_at_any_moment_it_goes_on(store, run, back, monkeypatch, moment):
    evaluations = [evaluated(store, run)]
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
    evaluated(store, run)

    def full(*arguments, **named):
        raise OSError("no space left on device")

    monkeypatch.setattr(ScoresEntry, "log", full)
    with pytest.raises(MlflowAway, match=r"cannot be used \(no space left on device\)") as refused:
        compare.catch_up(run)
    assert not refused.value.temporary


def test_an_entry_that_another_version_kept_is_dropped_with_a_warning(store, run, back, capsys):
    store.put("untold/t/old.json", b'{"kind": "scores", "what": "scores", "inputs": {}}')
    log_splits(run, splits())
    capsys.readouterr()
    logged = back()
    compare.catch_up(run)
    assert (logged, left(store)) == (["data"], [])
    assert "old.json" in capsys.readouterr().err
