"""`cliptea submit --wait`: what it shows of a run, from the store or from Pipelines, and how it ends."""

import os
import re

import pytest
from replay import recorded
from test_run_objects import step_pod
from watched import QUICK, RUN, followed, later, write

from cliptea import board, progress
from cliptea.board import StepStatus
from cliptea.errors import ServerAway
from cliptea.storage import FileStore
from cliptea_pipeline import closing, news, submit, watch
from cliptea_pipeline.endpoint import Endpoint
from cliptea_pipeline.looks import Look

pytestmark = pytest.mark.usefixtures("watching")

SMOKE = submit.parameters("smoke", [])
BAR = {"event": "bar", "text": "training", "total": 20, "unit": "it", "done": 5, "rate": 2.0, "left": 7.5}
BAR |= {"values": {"loss": 1.5}, "last": False}


def test_without_the_store_the_tasks_of_pipelines_are_shown_under_the_names_of_the_steps(pipelines):
    pipelines.looks = 30
    ended = followed()
    lines = ended.stdout.splitlines()
    assert lines[1] == (
        "note: variants and progress are not shown (the store is not known on this machine); "
        "to see them, set CLIPTEA_STORE, CLIPTEA_S3_ENDPOINT and the AWS_ variables on this machine"
    )
    steps = [line for line in lines if re.match(r"[\w .]+: (started|done in)", line)]
    assert {line.split(":")[0] for line in steps} == {
        *("resolve", "split", "tokens", "teacher", "train", "train no. 2", "train no. 3", "train no. 4"),
        *("evaluate", "evaluate no. 2", "evaluate no. 3", "evaluate no. 4"),
    }
    assert "train: done in 1 min 33 s" in steps  # as recorded, 21:09:06 to 21:10:39
    assert steps.index("teacher: started") < steps.index("train: started") < steps.index("evaluate: started")
    assert not re.search(r"driver|executor|iteration|for-loop|condition|root", ended.stdout)
    assert (ended.exit_code, ended.stderr.count("\n")) == (0, 1)  # the image's warning


def test_the_launcher_of_trainjobs_is_shown_as_train(pipelines):
    pipelines.life, pipelines.looks = recorded("cancelled"), 30
    told = followed().stdout
    assert "train: started" in told
    assert "launch" not in told


def test_a_run_that_is_deleted_meanwhile_was_started_all_the_same(pipelines):
    pipelines.looks, pipelines.acts = 30, [lambda: None, lambda: None, pipelines.held["runs"].clear]
    ended = followed()
    assert ended.exit_code == 1
    assert ended.stderr.splitlines()[-1] == (
        f"error: the run {RUN} was deleted in Pipelines before it had ended; submit it again"
    )


def test_with_the_store_variants_and_progress_are_shown_and_tasks_are_not(pipelines, store, monkeypatch):
    monkeypatch.setattr("cliptea_pipeline.display.PLAIN_SECONDS", 0.0)
    pipelines.looks = 8
    bar = {"step": "train", "label": "table3/full", **BAR}
    a, b = "table3/full", "table3/no ce"
    pipelines.acts = later(
        [
            [],
            [lambda: write("resolve", published={"tracking_run": "abc"})],
            [lambda: write("resolve", beat=2, state="done", published={"tracking_run": "abc"})],
            [lambda: write("train", a), lambda: write("train", b)],
            [
                lambda: write("train", a, beat=2),
                lambda: write("train", a, beat=2, writer="training", bar=bar),
            ],
            [
                lambda: write("train", a, beat=3, state="done"),
                lambda: write("train", b, beat=2, state="done", reused=True),
            ],
        ]
    )
    ended = followed()
    assert [line for line in ended.stdout.splitlines() if not re.match("run|pending|running|succeeded", line)] == [
        "resolve: started",
        "mlflow run abc; set MLFLOW_TRACKING_URI to see its address",
        "resolve: done in 40 s",
        f"train {a}: started",
        f"train {b}: started",
        f"train {a}: training 5/20 it, 2/s, 7.5 s left, loss 1.5",
        f"train {a}: done in 1 min 00 s",
        f"train {b}: reused in 40 s",
    ]
    assert ended.exit_code == 0


def test_the_address_in_mlflow_is_shown_once_it_is_known(pipelines, monkeypatch):
    """Asked for when resolve has ended, which makes the run; a server that does not answer costs nothing."""
    from cliptea.tracking import state

    asked = []

    def run_address(job_id):
        asked.append(job_id)
        if len(asked) == 1:
            raise ConnectionError("away")
        return "http://mlflow/#/experiments/1/runs/abc" if len(asked) == 3 else None

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(state, "run_address", run_address)
    monkeypatch.setattr(state, "close_silent_runs", lambda ended: [])
    monkeypatch.setattr(watch, "PACE", QUICK._replace(address=0.0))
    pipelines.looks = 30
    told = followed().stdout.splitlines()
    assert asked == [RUN] * 3
    assert told.count("mlflow http://mlflow/#/experiments/1/runs/abc") == 1
    assert not [line for line in told[: told.index("resolve: started")] if "mlflow" in line]


def test_on_a_terminal_there_are_bars(pipelines, store, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipelines.looks = 5
    write("train", "table3/full", bar={"step": "train", "label": "table3/full", **BAR})
    told = followed().stdout
    assert re.search(r"train.*table3/full.*━.*5/20 it, 2/s", told)


def test_steps_that_write_nothing_to_the_named_store(pipelines, store):
    pipelines.looks = 8
    told = followed().stdout
    assert "(the steps do not report to the store that is set here)" in told
    assert "split: done" in told


def test_a_store_that_is_away_costs_one_line(pipelines, monkeypatch):
    monkeypatch.setattr(news, "PATIENCE", 0.5)
    for name, value in {
        "CLIPTEA_STORE": "s3://bucket/a",
        "CLIPTEA_S3_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hush",
    }.items():
        monkeypatch.setenv(name, value)
    ended = followed()
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("note: ")]
    assert re.search(r"the store cannot be read from this machine: .*127.0.0.1:9", line)
    assert "hush" not in ended.output
    assert ended.exit_code == 0


def test_a_step_that_was_killed_is_not_shown_for_ever(pipelines, store, monkeypatch):
    """Pipelines says that no such task is at work, and its beat stands still."""
    monkeypatch.setattr(news, "SILENT", 0.05)
    pipelines.life, pipelines.looks = recorded("failed"), 20
    write("resolve")
    write("train", "a", state="done")
    told = followed().stdout
    assert re.search(r"(?m)^resolve: failed after", told)


def test_one_of_two_variants_that_was_killed_is_told_from_the_one_that_works(monkeypatch):
    monkeypatch.setattr(news, "SILENT", 0.0)
    tasks = [news.Task("1", "train", "RUNNING", "", 0.0, []), news.Task("2", "train", "FAILED", "", 0.0, [])]
    boards = news._Boards()
    statuses = [StepStatus(step="train", label=x, started=1.0, updated=1.0, beat=1) for x in "ab"]
    both = [task._replace(state="RUNNING") for task in tasks]
    assert [event["event"] for event in boards.events(statuses, both)] == ["start", "start"]
    moved = [statuses[0], statuses[1].model_copy(update={"beat": 2})]
    (lost,) = boards.events(moved, tasks)
    assert (lost["event"], lost["label"]) == ("failed", "a")
    again = [statuses[0].model_copy(update={"beat": 2}), moved[1]]
    (back,) = boards.events(again, both)
    assert (back["event"], back["label"]) == ("start", "a")


def test_a_step_that_ends_while_the_store_is_away_was_not_killed(store, monkeypatch):
    """Neither while nothing can be read, nor later, when its last word has not been stored."""
    monkeypatch.setattr(news, "SILENT", 0.0)

    def away(self, prefix):
        raise ServerAway("away")

    def look(state):
        return Look("RUNNING", "", [news.Task("1", "resolve", state, "", 0.0, [])])

    seen = news.News(RUN, os.environ["CLIPTEA_STORE"], print)
    write("resolve")
    assert [event["event"] for event in seen.read(look("RUNNING"))] == ["start"]
    with monkeypatch.context() as closed:
        closed.setattr(FileStore, "entries", away)
        assert seen.read(look("FAILED")) == []
    assert seen.read(look("SUCCEEDED")) == []
    assert [event["event"] for event in seen.read(look("FAILED"))] == ["failed"]


def test_a_killed_variant_is_told_from_one_that_succeeded(store, monkeypatch):
    monkeypatch.setattr(news, "SILENT", 0.0)
    tasks = [news.Task("1", "train", "SUCCEEDED", "", 0.0, []), news.Task("2", "train", "FAILED", "", 0.0, [])]
    seen = news.News(RUN, os.environ["CLIPTEA_STORE"], print)
    write("train", "a")
    write("train", "b")
    assert [event["event"] for event in seen.read(Look("RUNNING", "", tasks))] == ["start", "start"]
    write("train", "a", beat=2, state="done")
    told = [(event["event"], event["label"]) for event in seen.read(Look("RUNNING", "", tasks))]
    assert told == [("done", "a"), ("failed", "b")]


def test_the_sweep_comes_after_the_run_and_can_be_stopped(pipelines, monkeypatch):
    def interrupt(server):
        raise KeyboardInterrupt

    monkeypatch.setattr(closing, "sweep", interrupt)
    pipelines.looks = 5
    ended = followed()
    assert ended.exit_code == 0
    assert "resolve: started" in ended.stdout
    assert "stopped" not in ended.stderr


def test_a_cancelled_run_is_no_failed_one(pipelines):
    pipelines.life, pipelines.looks = recorded("cancelled"), 9
    ended = followed()
    assert ended.exit_code == 3
    assert re.search(r"(?m)^cancelled after", ended.stdout)
    assert ended.stderr.splitlines()[1:] == [
        "MLflow: MLFLOW_TRACKING_URI is not set here; the next run closes the runs that are still open there"
    ]


def test_a_run_that_somebody_cancels_meanwhile(pipelines):
    pipelines.looks, pipelines.stuck = 20, 0.5
    endpoint = Endpoint()
    pipelines.acts = later([[]] * 5 + [[lambda: pipelines.ending.setdefault(RUN, 0)]])
    run = submit.submit(endpoint, SMOKE)
    assert watch.wait(endpoint, run) == 3


@pytest.mark.parametrize("there", [True, False])
def test_what_waits_is_said_when_nothing_moves(pipelines, watching, kubernetes, monkeypatch, capsys, there):
    if not there:
        monkeypatch.setenv("KUBECONFIG", "/nowhere")
    lacking = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "1 Insufficient cpu."}
    kubernetes.pods = [step_pod("runs"), step_pod("stuck", phase="Pending", conditions=[lacking], containerStatuses=[])]
    for pod in kubernetes.pods:
        pod["metadata"]["labels"]["pipeline/runid"] = RUN
    pace = QUICK._replace(quiet=0.1, again=0.15)
    pipelines.life, pipelines.looks, pipelines.stuck = recorded("failed"), 20, 0.0  # pending, forever
    endpoint = Endpoint()
    run = submit.submit(endpoint, SMOKE)
    pipelines.acts = later([[]] * 40 + [[lambda: pipelines.ending.setdefault(RUN, 0)]])
    assert watch.wait(endpoint, run, "", pace) == 3
    told = capsys.readouterr().out.splitlines()
    said = [n for n, line in enumerate(told) if "nothing has changed for" in line]
    assert len(said) >= 2
    waits = {
        True: "  train, pod stuck: no node can run it: 1 Insufficient cpu.; waiting for one",
        False: f"  to see what is waiting: kubectl -n kubeflow get pods -l pipeline/runid={RUN}",
    }
    assert {told[n + 1] for n in said} == {waits[there]}
    assert not [line for line in told if "pod runs" in line]


def test_a_step_at_work_is_not_waited_for(pipelines, store, capsys):
    pipelines.looks, pipelines.stuck = 20, 0.5
    endpoint = Endpoint()
    run = submit.submit(endpoint, SMOKE)
    write("train", "a")
    pipelines.acts = later([[]] * 30 + [[lambda: pipelines.ending.setdefault(RUN, 0)]])
    watch.wait(endpoint, run, os.environ["CLIPTEA_STORE"], QUICK._replace(quiet=0.05))
    assert "nothing has changed" not in capsys.readouterr().out


def interrupted(look, after):
    """`look`, with Ctrl-C after so many calls. A signal could strike while a lock of `logging` is held, for good."""
    calls = iter(range(after))

    def looking(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return look(*arguments)

    return looking


def test_ctrl_c_only_stops_the_watching(pipelines, monkeypatch):
    pipelines.stuck = 0.5
    monkeypatch.setattr(watch, "look", interrupted(watch.look, after=4))
    ended = followed()
    assert ended.exit_code == 130
    assert ended.stderr.endswith(f"stopped watching; the run continues, and `cliptea cancel {RUN}` cancels it\n")
    assert pipelines.ending == {}


def test_a_server_that_is_away_for_a_while(pipelines):
    pipelines.looks = 10
    pipelines.acts = later([[]] * 4 + [[lambda: setattr(pipelines, "away", 2)]])
    ended = followed()
    assert ended.exit_code == 0
    server = f"Kubeflow Pipelines at {pipelines.url}"
    assert f"{server} does not answer (503: Service Unavailable); trying again for " in ended.stderr
    assert f"{server} answers again, after " in ended.stderr


def test_a_true_board_is_read(pipelines, store):
    """What a step posts is what is shown."""
    with board.posting(store, RUN, "split"), progress.step("split"), progress.bar("images", 4, "image") as bar:
        bar.update(4)
    assert re.search(r"(?m)^split: done in 0.\d s$", followed().stdout)
