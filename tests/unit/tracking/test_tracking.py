"""MLflow runs are found before they are made; nothing is logged twice; the champion changes for a reason."""

import json
import math
import os
import re
import uuid
from contextlib import nullcontext
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import BAD_REQUEST, MlflowException

from cliptea import settings
from cliptea.errors import ServerAway, StorageError, TrackingError
from cliptea.evaluation.ranking import best_row, candidates
from cliptea.manifest import Contents, Output, make_once, put_object
from cliptea.report.version import BEST, COMMANDS, LOSER, PENDING, SHIP
from cliptea.run import Run, expand
from cliptea.steps.compare import ComparedRow, Comparison
from cliptea.steps.finish import finish_run
from cliptea.steps.promote import promote_best
from cliptea.storage import open_store, read_uri
from cliptea.tracking.address import EXPERIMENT
from cliptea.tracking.mlflow_client import connect
from cliptea.tracking.model import exact_version
from cliptea.tracking.registry import rollback
from cliptea.tracking.runs import ChildRun, log_best, open_parent
from cliptea.tracking.state import mark_stopped

COMMAND = "cliptea predict PHOTOS --model models:/cliptea-smoke"


def make_run(name, job="job"):
    config = settings.load("smoke")
    run = Run(
        config=config,
        data_digest="d",
        fingerprint=name,
        job_id=job,
        tracking_run="",
        variants=expand(config),
    )
    return run.model_copy(update={"tracking_run": open_parent(run)})


def test_a_run_started_again_is_the_same_run(client):
    first, again, other = make_run("one", "job1"), make_run("one", "job2"), make_run("two")
    assert first.tracking_run == again.tracking_run != other.tracking_run
    params = client.get_run(first.tracking_run).data.params
    assert params["train.iterations"] == "8"
    child = ChildRun.open(first, first.variants[0])
    assert ChildRun.open(again, again.variants[0]).run_id == child.run_id
    assert ChildRun.open(first, first.variants[1]).run_id != child.run_id
    assert ChildRun.open(other, other.variants[0]).run_id != child.run_id


def test_pipeline_runs_and_their_children_can_be_told_apart(client):
    runs_of = [make_run(name) for name in ("0123456789abcdef", "fedcba9876543210")]
    names = [client.get_run(run.tracking_run).info.run_name for run in runs_of]
    assert names == ["smoke · demo · 01234567", "smoke · demo · fedcba98"]
    children = [client.get_run(ChildRun.open(run, run.variants[0]).run_id) for run in runs_of]
    assert [child.data.tags["run"] for child in children] == ["01234567", "fedcba98"]
    assert {child.info.run_name for child in children} == {"full · seed 0 · demo_fpn · demo"}


def test_a_pipeline_run_has_the_scores_of_its_best_model(client):
    run = make_run("best")
    for _ in range(2):
        log_best(run, row("x", 0.625))
    data = client.get_run(run.tracking_run).data
    assert data.metrics == {"hiou": 0.625, "miou_seen": 0.5, "miou_unseen": 0.5, "pacc": 0.5}
    assert len(client.get_metric_history(run.tracking_run, "hiou")) == 1
    assert data.tags["cliptea.best"] == "backbones/demo_fpn seed 0"


def test_a_student_that_was_trained_again_has_its_later_scores(client):
    child = ChildRun.open(run := make_run("again"), run.variants[0])
    for hiou in (0.5, 0.5, 0.25):
        child.log_result({"hiou": hiou, "pacc": None}, {})
    assert client.get_run(child.run_id).data.metrics["hiou"] == 0.25
    logged = [metric.value for metric in client.get_metric_history(child.run_id, "hiou")]
    assert [value for value in logged if not math.isnan(value)] == [0.5, 0.25]


def test_the_experiment_says_what_it_is_and_opens_as_one_of_models(client):
    make_run("experiment")
    tags = client.get_experiment_by_name(EXPERIMENT).tags
    assert "`hiou`" in tags["mlflow.note.content"]
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_on_a_cluster_every_job_is_its_own_run(client, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS")
    assert make_run("cluster", "a").tracking_run != make_run("cluster", "b").tracking_run


def test_the_runs_of_kfp_s_mlflow_plugin_are_joined(client, monkeypatch):
    """The plug-in makes a run for the pipeline run, one for each task below it, and names the task's to the task."""
    monkeypatch.delenv("CLIPTEA_EVENTS")
    experiment = client.create_experiment(str(uuid.uuid4()))
    tags = {"kfp.pipeline_run_id": "job7"}
    theirs = client.create_run(experiment, tags=tags, run_name="theirs").info.run_id
    task = client.create_run(experiment, tags=tags | {"mlflow.parentRunId": theirs}).info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", task)
    run = make_run("plug-in", "job7")
    assert run.tracking_run == make_run("plug-in", "job7").tracking_run == theirs
    child = client.get_run(ChildRun.open(run, run.variants[0]).run_id)
    assert child.info.experiment_id == experiment
    assert child.data.tags["mlflow.parentRunId"] == theirs
    finish_run("job7", "FAILED", "no more disk")
    joined = client.get_run(theirs)
    assert (joined.info.run_name, joined.info.status) == ("theirs", "FAILED")
    assert joined.data.params["train.iterations"] == "8"
    assert client.get_run(task).data.params == {}
    assert len(client.search_runs([experiment])) == 3


def test_curves_are_logged_once_whatever_is_repeated(client):
    run = make_run("curves")
    curves = [{"iteration": n, "total": n / 7, "ce": n / 3} for n in range(2, 2000, 2)]
    for length in (300, 500, 400, len(curves)):  # killed runs come back with more, or fewer, than was logged
        child = ChildRun.open(run, run.variants[0])
        child.log_curves(curves[:length], 4.0)
        child.log_curves(curves[:length], 4.0)
    history = client.get_metric_history(child.run_id, "loss/ce")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [
        (int(point["iteration"]), point["ce"]) for point in curves
    ]


def test_scores_on_held_out_images_are_a_curve_of_their_own(client):
    run = make_run("held out")
    curves = [{"iteration": n, "total": 1.0} | ({"heldout_miou_seen": n / 8} if n % 4 == 0 else {}) for n in (2, 4, 8)]
    for length in (2, 3):
        child = ChildRun.open(run, run.variants[0])
        child.log_curves(curves[:length], 4.0)
    history = client.get_metric_history(child.run_id, "train/heldout_miou_seen")
    assert sorted((metric.step, metric.value) for metric in history) == [(4, 0.5), (8, 1.0)]
    assert "heldout_miou_seen" not in client.get_run(child.run_id).data.metrics
    child.log_result({"heldout_miou_seen": 0.5}, {})
    assert client.get_run(child.run_id).data.metrics["heldout_miou_seen"] == 0.5


def test_results_are_logged_once_and_classes_without_pixels_left_out(client):
    run = make_run("results")
    child = ChildRun.open(run, run.variants[0])
    for _ in range(2):
        child.log_result(
            {"hiou": 0.5, "val_iou/a b": 0.25, "val_iou/odd(name)": 0.75, "val_iou/gone": None}, {"gamma": 0.0}
        )
    data = client.get_run(child.run_id).data
    assert data.metrics == {"hiou": 0.5, "val_iou/a b": 0.25, "val_iou/odd:28:name:29:": 0.75}
    history = client.get_metric_history(child.run_id, "hiou")
    assert [metric.value for metric in history if not math.isnan(metric.value)] == [0.5]
    child.finish()
    assert client.get_run(child.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(("state", "status"), [("COMPLETE", "FINISHED"), ("FAILED", "FAILED")])
def test_the_exit_handler_closes_the_run_with_its_true_state(client, state, status):
    run = make_run(f"finish {state}", f"job {state}")
    finish_run(f"job {state}", state, "" if status == "FINISHED" else "train failed")
    assert client.get_run(run.tracking_run).info.status == status
    finish_run("a job that was never tracked", state, "")


def test_a_stopped_run_is_shown_as_killed_until_it_goes_on(client):
    run = make_run("stopped")
    done, at_work = (ChildRun.open(run, variant) for variant in run.variants[:2])
    done.finish()
    mark_stopped(run.tracking_run)
    states = [client.get_run(one).info.status for one in (run.tracking_run, done.run_id, at_work.run_id)]
    assert states == ["KILLED", "FINISHED", "KILLED"]
    again = make_run("stopped", "another job")
    assert (again.tracking_run, ChildRun.open(again, again.variants[1]).run_id) == (run.tracking_run, at_work.run_id)
    assert client.get_run(run.tracking_run).info.status == "RUNNING"


def test_artifacts_lie_beside_the_database_or_where_the_server_keeps_them(client, tracking_uri):
    make_run("artifacts")
    location = client.get_experiment_by_name(EXPERIMENT).artifact_location
    if tracking_uri.startswith("sqlite"):
        folder = tracking_uri.removeprefix("sqlite:///").removesuffix("mlflow.db")
        assert location == f"file://{folder}artifacts"
    else:
        assert location.startswith("mlflow-artifacts:/")


def test_a_missing_server_is_one_line(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI"):
        connect()


def row(run_id, hiou, member=("backbones", "demo_fpn"), dataset="demo", seed=0, telling=""):
    return ComparedRow(
        variant=member[1],
        group=member[0],
        backbone="b",
        dataset=dataset,
        seed=seed,
        iterations=1,
        gamma=0.0,
        pAcc=0.5,
        miou_seen=0.5,
        miou_unseen=0.5,
        hiou=hiou,
        per_class={},
        training_images_per_second=1.0,
        model_uri="",
        mlflow_run_id=run_id,
        telling=telling,
    )


def compared(rows, evaluation="same", stand_in=False):
    """A comparison with a report in the store that lacks only its last sentence."""
    store, output = open_store(), Output("compare", "0123456789abcdef")

    def make():
        page = f"<h2>{SHIP} x</h2><p><b>{PENDING}</b></p>{COMMANDS}".encode()
        return Contents({"report.html": put_object(store, f"{output.prefix}/report.html", page)}, {})

    made, _ = make_once(store, output, make)
    return Comparison(
        report=store.uri(made.objects["report.html"].key),
        results="",
        hashes={},
        rows=rows,
        best={},
        evaluation=evaluation,
        stand_in=stand_in,
    )


def test_the_alias_follows_the_best_model(client):
    champions = []
    for hiou, name in ((0.4, "p1"), (0.3, "p2"), (0.6, "p3")):
        run = make_run(name)
        child = ChildRun.open(run, run.variants[0]).run_id
        comparison = compared([row(child, hiou)])
        decided = promote_best(run, comparison)
        again = promote_best(run, comparison)
        assert again.version == decided.version  # no version twice
        champions.append(client.get_model_version_by_alias("cliptea-smoke", "champion").run_id == child)
    assert champions == [True, False, True]
    best = client.get_model_version_by_alias("cliptea-smoke", "champion")
    assert best.tags["cliptea.reason"] == "hIoU 60.00 % beats the champion's 40.00 %"
    assert exact_version("models:/cliptea-smoke@champion") == "models:/cliptea-smoke/3"
    with pytest.raises(TrackingError, match="the model models:/cliptea-smoke@other does not exist"):
        exact_version("models:/cliptea-smoke@other")
    reason = best.tags["cliptea.reason"]
    assert client.get_run(child).data.tags["cliptea.promotion"] == f"cliptea-smoke version 3: {reason}"
    finish_run(run.job_id, "SUCCEEDED", "")
    told = f"At the end of this run, cliptea-smoke version 3 is the champion ({reason})."
    page = "[cliptea-smoke version 3](#/models/cliptea-smoke/versions/3)"
    shipped = f"**Ship this:** backbones/demo_fpn seed 0, hIoU 60.0 %, unseen 50.0 %, seen 50.0 %: {page}. {told}"
    note = client.get_run(run.tracking_run).data.tags["mlflow.note.content"]
    assert note == f"{shipped}\n\n`cliptea predict PHOTOS --model models:/cliptea-smoke/3`"
    about = "The full method with the demo's small feature pyramid network"
    assert client.get_run(child).data.tags["mlflow.note.content"] == f"{about}. {told}"
    assert client.get_registered_model("cliptea-smoke").description.startswith("The champion is version 3: demo_fpn")
    assert len(client.search_model_versions("name = 'cliptea-smoke'")) == 3


def test_the_report_names_the_version_and_every_student_the_best_one(client):
    run = make_run("shipped")
    ablation = run.variant("baselines/seen_only")
    variants = [run.variants[0], ablation]
    children = [ChildRun.open(run, variant).run_id for variant in variants]
    members = [(variant.members[0].group, variant.members[0].variant) for variant in variants]
    rows = [row(child, hiou, member) for child, hiou, member in zip(children, (0.5, 0.9), members, strict=True)]
    assert max(rows, key=lambda one: one.hiou).label == ablation.label  # and is never what to ship
    promote_best(run, compared(rows))
    published = [json.loads(line) for line in Path(os.environ["CLIPTEA_EVENTS"]).read_text().splitlines()]
    values = next(event["values"] for event in reversed(published) if "report" in event.get("values", {}))
    told = "At the end of this run, cliptea-smoke version 1 is the champion (first champion, hIoU 50.00 %)."
    ship = told.removeprefix("At the end of this run, ")
    assert {"model": "models:/cliptea-smoke/1", "ship": ship} in [event.get("values") for event in published]
    page = read_uri(values["report"], values["report_sha256"]).decode()
    assert page.startswith(f"<h2>{SHIP} x</h2><p><b>{told}</b></p>")
    assert re.findall("<p class=.*?<code>(.*?)</code>", page) == [f"{COMMAND}/1"]
    folder = client.download_artifacts(run.tracking_run, "report.html")
    assert told in Path(folder).read_text()
    notes = [client.get_run(child).data.tags["mlflow.note.content"] for child in children]
    assert notes[0] == f"{variants[0].members[0].about}. {told}"
    page = "[cliptea-smoke version 1](#/models/cliptea-smoke/versions/1)"
    best = f"The best student of this run is {members[0][0]}/{members[0][1]} seed 0, {page}."
    assert notes[1] == f"Without both modules (cross entropy on seen classes alone). {best}"


def test_the_metric_that_comparisons_open_with_is_hiou(client):
    """MLflow lists metrics in the order in which they came, and opens comparisons with the first."""
    run = make_run("order")
    child = ChildRun.open(run, run.variants[0])
    child.log_curves([{"iteration": 2, "total": 1.0, "ce": 0.5}], 4.0)
    assert math.isnan(client.get_run(child.run_id).data.metrics["hiou"])  # as missing values are in MLflow's tables
    child.log_result({"pacc": 0.25, "hiou": 0.5}, {})
    metrics = client.get_run(child.run_id).data.metrics
    assert metrics["hiou"] == 0.5
    if str(client.tracking_uri).startswith("sqlite"):
        assert next(iter(metrics)) == "hiou"


def test_an_experiment_opens_with_the_scores(client):
    make_run("view")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    state = json.loads(experiment.tags["mlflow.sharedViewState.scores"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`hiou`", False)
    names = [name.strip("`") for name in (column.partition(".")[2] for column in state["columnOrder"])]
    assert [name for name in names if "iou" in name] == ["hiou", "miou_unseen", "miou_seen"]
    assert [chart["metricKey"] for chart in state["compareRunCharts"]][:3] == ["hiou", "miou_unseen", "miou_seen"]
    sections = [section["uuid"] for section in state["compareRunSections"]]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == set(sections)
    page = f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=scores"
    assert f"({page})" in experiment.tags["mlflow.note.content"]
    earlier = "Students of cliptea: a run for each pipeline run, and below it one for each variant and seed."
    present = experiment.tags["mlflow.note.content"]
    for written, expected in (("ours", "ours"), (earlier, present), (present.upper(), present.upper())):
        client.set_experiment_tag(experiment.experiment_id, "mlflow.note.content", written)
        make_run("view again")
        assert client.get_experiment_by_name(EXPERIMENT).tags["mlflow.note.content"] == expected


@pytest.mark.parametrize("tracking_uri", ["sqlite"], indirect=True)
@pytest.mark.parametrize("other", [True, False])
def test_two_first_runs_may_describe_the_experiment_at_the_same_moment(client, other, monkeypatch):
    """MLflow refuses the second of two processes that set a new tag. This one comes second each time."""
    set_tag, refused = MlflowClient.set_experiment_tag, []

    def second(self, experiment, key, value):
        if other:
            set_tag(self, experiment, key, value)
        refused.append(key)
        raise MlflowException("UNIQUE constraint failed: experiment_tags.key", BAD_REQUEST)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", second)
    with nullcontext() if other else pytest.raises(MlflowException, match="UNIQUE"):
        make_run("view")
    assert refused == ["mlflow.sharedViewState.scores", "mlflow.note.content"][: 1 + other]


def test_worse_tied_and_elsewhere_measured_models_stay_out_of_office(client):
    decisions = []
    for name, hiou, evaluation in (("q1", 0.5, "a"), ("q2", 0.4, "a"), ("q3", 0.5, "a"), ("q4", 0.9, "b")):
        run = make_run(name)
        child = ChildRun.open(run, run.variants[0]).run_id
        decisions.append(promote_best(run, compared([row(child, hiou)], evaluation)))
    assert [decision.promoted for decision in decisions] == [True, False, False, False]
    assert str(client.get_model_version_by_alias("cliptea-smoke", "champion").version) == decisions[0].version
    assert "hIoU 90.00 %, but the champion's 50.00 % was measured on another evaluation set" in decisions[3].reason


def test_one_lucky_seed_does_not_choose_the_variant():
    steady = [row(f"a{seed}", hiou, seed=seed) for seed, hiou in enumerate((0.5, 0.52, 0.51))]
    other = ("backbones", "segformer_b0")
    lucky = [row(f"b{seed}", hiou, other, seed=seed) for seed, hiou in enumerate((0.1, 0.6, None))]
    assert best_row([*lucky, *steady]).mlflow_run_id == "a1"
    assert best_row(lucky).mlflow_run_id == "b1"


def test_a_run_repeated_after_a_rollback_says_which_version_is_the_champion(client, capsys, monkeypatch):
    monkeypatch.delenv("CLIPTEA_EVENTS")
    for hiou, name in ((0.4, "r1"), (0.6, "r2")):
        run = make_run(name, name)
        child = ChildRun.open(run, run.variants[0]).run_id
        comparison = compared([row(child, hiou)])
        decided = promote_best(run, comparison)
    rollback(client, "cliptea-smoke")
    capsys.readouterr()
    assert promote_best(run, comparison) == decided
    told = capsys.readouterr().err
    assert "version 2 was the champion (hIoU 60.00 % beats the champion's 40.00 %)." in told
    assert "The champion is now version 1: ship that one." in told
    page = Path(client.download_artifacts(run.tracking_run, "report.html")).read_text()
    assert page.startswith(f"<h2>{LOSER} x</h2><p><b>At the end of this run, cliptea-smoke version 2 was")
    note = client.get_run(run.tracking_run).data.tags["mlflow.note.content"]
    assert note.startswith("**Best of this run, but not the champion:** backbones/demo_fpn seed 0")
    assert re.findall("<p class=.*?<code>(.*?)</code>", page) == [f"{COMMAND}/1", f"{COMMAND}/2"]
    assert note.endswith(f"The champion: `{COMMAND}/1`\n\nThis run's best: `{COMMAND}/2`")
    assert client.get_model_version("cliptea-smoke", "2").tags["cliptea.reason"] == "rolled back to version 1"
    client.delete_registered_model_alias("cliptea-smoke", "champion")
    promote_best(run, comparison)
    assert "There is no champion now." in capsys.readouterr().err
    note = client.get_run(run.tracking_run).data.tags["mlflow.note.content"]
    assert note.startswith(f"**{BEST}** backbones/demo_fpn seed 0")
    assert note.endswith(f"There is no champion now.\n\n`{COMMAND}/2`")


@pytest.mark.parametrize("another", [False, True])
def test_a_run_whose_version_was_deleted_is_decided_again(client, another):
    run, other = make_run("mine"), make_run("theirs")
    comparison, theirs = (
        compared([row(ChildRun.open(one, one.variants[0]).run_id, hiou)]) for one, hiou in ((run, 0.6), (other, 0.7))
    )
    assert promote_best(run, comparison).version == "1"
    client.delete_registered_model("cliptea-smoke")
    if another:
        assert promote_best(other, theirs).version == "1"  # MLflow gives the number again
    again = promote_best(run, comparison)
    assert (again.version, again.promoted) == (("2", False) if another else ("1", True))
    run_id = client.get_model_version("cliptea-smoke", again.version).run_id
    assert run_id == comparison.rows[0].mlflow_run_id


def test_a_run_repeated_after_its_score_was_damaged_writes_it_anew(client):
    run = make_run("mine")
    comparison = compared([row(ChildRun.open(run, run.variants[0]).run_id, 0.6)])
    decided = promote_best(run, comparison)
    whole = client.get_model_version("cliptea-smoke", "1").tags
    client.set_model_version_tag("cliptea-smoke", "1", "hiou", "0.7")
    assert promote_best(run, comparison) == decided
    assert client.get_model_version("cliptea-smoke", "1").tags == whole


def test_models_that_mlflow_was_not_told_of_are_no_champions_and_not_lost(client):
    run = make_run("untold")
    rows = [row("", 0.9, telling="scores-1"), row("told", 0.5, seed=1, telling="scores-2")]
    comparison = compared(rows)
    with pytest.raises(StorageError, match="1 model is not logged"):
        promote_best(run, comparison)
    assert client.search_registered_models() == []


def test_while_the_registry_is_down_nothing_is_decided(client, monkeypatch):
    run = make_run("down")
    child = ChildRun.open(run, run.variants[0]).run_id
    comparison = compared([row(child, 0.5)])
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        down.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        down.setenv("CLIPTEA_PATIENCE", "0")
        with pytest.raises(ServerAway, match=r"MLflow does not answer at http://127\.0\.0\.1:9") as away:
            promote_best(run, comparison)
    assert away.value.temporary
    assert promote_best(run, comparison).promoted is True


def test_ablations_and_other_evaluation_sets_are_no_candidates():
    config = settings.load("smoke", ["variants=[backbones, table3]"])
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="t", variants=expand(config))
    students = [row("a", 0.5), row("b", 0.6, ("backbones", "segformer_b0")), row("c", 0.4, ("table3", "full"))]
    others = [row("d", 0.9, ("table3", "no_bce")), row("e", 0.9, dataset="elsewhere")]
    assert candidates(run, [*others, *students]) == students


def test_a_run_of_ablations_alone_promotes_nothing(client):
    comparison = compared([row("x", 0.9, ("baselines", "seen_only"))])
    assert "ablation" in promote_best(make_run("ablations"), comparison).reason


def test_students_without_an_hiou_promote_nothing(client):
    comparison = compared([row("x", 0.5).model_copy(update={"hiou": None})])
    assert "no student has an hIoU" in promote_best(make_run("nothing unseen"), comparison).reason
    assert client.search_registered_models() == []


def test_a_model_of_a_stand_in_teacher_is_never_promoted(client):
    comparison = compared([], "same", True)
    assert promote_best(make_run("stand-in"), comparison).promoted is False


def test_a_file_whose_name_comes_from_a_bucket_is_written_nowhere_else(tmp_path):
    logged = {}

    class Client:
        def log_artifacts(self, run_id, folder, name):
            found = (path for path in Path(folder).rglob("*") if path.is_file())
            logged.update({str(path.relative_to(folder)): path.read_bytes() for path in found})

    (tmp_path / "victim").write_bytes(b"precious")
    files = {"a.png": b"a", str(tmp_path / "victim"): b"b", "../../victim": b"c"}
    ChildRun(Client(), "run").log_files(files, "figures")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert logged == {"a.png": b"a", f"%{tmp_path}/victim": b"b", "%../%../victim": b"c"}
