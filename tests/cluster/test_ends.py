"""Whole runs on a cluster, from resolve to the exit task, and what is said of their end in four places.

The steps are the real ones around work that a test scripts: resolve opens the run in a real MLflow, train follows a
TrainJob of the fake cluster, promote completes the run, and the exit task is called with the state that was recorded.
`cliptea submit --wait` follows the recorded run of the same end.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import small_servers
from handed import artifact
from lives import NAME, complete, follow, nothing, script
from mlflow import MlflowClient
from replay import recorded
from test_lives import NODE_LOST, admitted, fails, stopping, suspended, two
from test_watch import interrupted
from typer.testing import CliRunner

from cliptea import settings
from cliptea.run import Run, expand
from cliptea.steps.common import run_step
from cliptea.steps.finish import finish
from cliptea.steps.resolve import skip
from cliptea.tracking import state
from cliptea.tracking.mlflow_client import persist
from cliptea.tracking.runs import ChildRun, open_parent
from cliptea_pipeline import watch
from cliptea_pipeline.cli import app

RUN = "runs-0"  # the id that the fake server gives to its first run


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory, empty_database):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, folder)}")
        for name in ("CLIPTEA_EVENTS", "CLIPTEA_ALIVE", "CLIPTEA_RETRIES", "CLIPTEA_PATIENCE"):
            patch.delenv(name, raising=False)
        patch.setattr(watch, "PACE", watch.Pace(poll=0.01, refresh=0.01, quiet=0.2, again=60.0))
        yield


@pytest.fixture
def store(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("CLIPTEA_STORE", folder.as_uri())


told, webhook = small_servers.told, small_servers.webhook


class Cluster:
    """One run, step by step. An earlier test's run of the same id is out of sight, since MLflow is asked by id."""

    def __init__(self, request, fingerprint=None):
        client = MlflowClient()
        for earlier in client.search_experiments():
            for run in client.search_runs([earlier.experiment_id], f"tags.`kfp.pipeline_run_id` = '{RUN}'"):
                for tag in ("kfp.pipeline_run_id", "cliptea.run"):
                    client.set_tag(run.info.run_id, tag, f"before {run.info.run_id}")
        config = settings.load("smoke")
        self.run = Run(
            config=config, data_digest="d", fingerprint=fingerprint or request.node.name, job_id=RUN, tracking_run="",
            variants=expand(config)[:1],
        )  # fmt: skip
        self.variant = self.run.variants[0]

    def resolve(self, may_skip=False):
        def work():
            self.run = self.run.model_copy(update={"tracking_run": persist(lambda: open_parent(self.run))})
            return "unchanged" if may_skip and skip(self.run) else "changed"

        return run_step("resolve", work, job_id=RUN)

    def train(self, **options):
        def work(run):
            child = ChildRun.open(self.run, self.variant)
            follow(nodes=2, **options)
            child.finish()

        run_step("train", work, run=artifact(self.run), label=self.variant.label)

    def promote(self):
        work = lambda run: state.mark_complete(self.run.tracking_run)  # noqa: E731
        run_step("promote", work, run=artifact(self.run))

    def exit(self, status):
        finish.python_func(RUN, SimpleNamespace(state=status, error_message=None))

    def mlflow(self):
        """The states of the pipeline run and of its variant, and why."""
        client = MlflowClient()
        parent = client.get_run(self.run.tracking_run)
        below = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
        states = [parent.info.status, *(child.info.status for child in below)]
        return states, parent.data.tags.get("cliptea.error", "")


@pytest.fixture
def cluster(request, store):
    return Cluster(request)


def followed(pipelines, life, looks=3):
    """`cliptea submit --wait` on a run that goes as the recorded one."""
    pipelines.life, pipelines.looks = recorded(life), looks
    return CliRunner().invoke(app, ["submit", "--preset", "smoke", "--wait"])


LIVES = {
    "no trouble": (two, complete),
    "evicted": (two, fails(p0=75, p1=75), two, complete),
    "force-deleted": (two, fails(p0=76), two, complete),
    "node lost": (two, lambda server: server.pod("p1", index=1, conditions=[NODE_LOST]), fails(p0=76), two, complete),
    "evicted by a queue and admitted again": (
        two, stopping, suspended, nothing, admitted, two, complete,
    ),
}  # fmt: skip


@pytest.mark.parametrize("life", LIVES)
def test_a_run_that_ends_well_whatever_its_pods_went_through(cluster, kubernetes, pipelines, told, life):
    cluster.resolve()
    kubernetes.play = script(*LIVES[life])
    cluster.train()
    cluster.promote()
    cluster.exit("COMPLETE")
    assert cluster.mlflow() == (["FINISHED", "FINISHED"], "")
    assert [body["state"] for body in told] == ["SUCCEEDED"]
    assert followed(pipelines, "succeeded").exit_code == 0


def test_a_run_whose_code_fails(cluster, kubernetes, pipelines, told):
    cluster.resolve()

    def breaks(server):
        server.logs["p0"] = ["2026-01-01T00:00:00Z error: the loss is not finite at iteration 7"]
        fails("p1", p0=1)(server)

    kubernetes.play = script(two, breaks)
    with pytest.raises(SystemExit):
        cluster.train()
    cluster.exit("FAILED")
    states, why = cluster.mlflow()
    assert states == ["FAILED", "FAILED"]
    assert why.startswith(f"train {cluster.variant.label}: ")
    assert why.endswith("its last line: error: the loss is not finite at iteration 7")
    assert [(body["state"], body["error"]) for body in told] == [("FAILED", why)]
    ended = followed(pipelines, "failed")
    assert ended.exit_code == 1
    assert f"error: {why}" in ended.stderr
    assert len(kubernetes.created) == 1


def test_a_run_that_had_nothing_to_do(request, store, pipelines, told):
    earlier = Cluster(request, "same data and settings")
    earlier.resolve()
    earlier.promote()
    later = Cluster(request, "same data and settings")
    assert later.resolve(may_skip=True) == "unchanged"
    later.exit("RUNNING")
    assert later.mlflow() == (["FINISHED"], "")
    assert [body["state"] for body in told] == ["SKIPPED"]
    assert followed(pipelines, "skipped").exit_code == 0


def test_a_run_that_is_cancelled_ends_by_the_command(cluster, kubernetes, pipelines, told):
    kubernetes.granted = None  # the user's rights
    cluster.resolve()
    ChildRun.open(cluster.run, cluster.variant)
    submitted = CliRunner().invoke(app, ["submit", "--preset", "smoke"])
    assert submitted.exit_code == 0
    pipelines.looks = 1000
    ended = CliRunner().invoke(app, ["cancel", RUN])
    assert (ended.exit_code, ended.stderr) == (0, "")
    states, why = cluster.mlflow()
    assert states == ["KILLED", "KILLED"]
    assert "cancelled" in why
    assert "MLflow: closed" in ended.stdout
    assert [body["state"] for body in told] == ["CANCELED"]


def test_a_run_that_is_cancelled_elsewhere_is_closed_by_whoever_waits(cluster, pipelines):
    """The exit task of a cancelled run does not run."""
    cluster.resolve()
    ChildRun.open(cluster.run, cluster.variant)
    ended = followed(pipelines, "cancelled")
    assert ended.exit_code == 3
    assert cluster.mlflow()[0] == ["KILLED", "KILLED"]


def test_a_run_that_is_cancelled_and_watched_by_nobody_is_closed_by_the_next(request, store, told, monkeypatch):
    gone = Cluster(request)
    gone.resolve()
    ChildRun.open(gone.run, gone.variant)
    MlflowClient().set_tag(gone.run.tracking_run, "cliptea.heartbeat", "2026-01-01T00:00:00+00:00")
    assert state.close_silent_runs() == []  # its last sign of life on the board is too young
    monkeypatch.setattr(state, "SILENCE_SECONDS", 0.0)
    state.close_silent_runs()
    states, why = gone.mlflow()
    assert states == ["KILLED", "KILLED"]
    assert "no heartbeat" in why
    assert [(body["job_id"], body["state"]) for body in told] == [(RUN, "CANCELED")]


def test_a_run_that_is_gated_for_ever_is_told_of_and_left_alone(cluster, pipelines, monkeypatch):
    """Pipelines goes on to say RUNNING: nothing is closed, and whoever waits is told what the pods wait for."""
    cluster.resolve()
    MlflowClient().set_tag(cluster.run.tracking_run, "cliptea.heartbeat", "2026-01-01T00:00:00+00:00")
    pipelines.stuck, pipelines.looks = 0.05, 10**6
    monkeypatch.setattr(watch, "look", interrupted(watch.look, after=100))
    ended = CliRunner().invoke(app, ["submit", "--preset", "smoke", "--wait"])
    assert ended.exit_code == 130
    assert "nothing has changed for" in ended.stdout
    assert cluster.mlflow()[0] == ["RUNNING"]


FOLLOW = """
import sys
from types import SimpleNamespace
from lives import follow
from cliptea.steps.common import run_step
run = SimpleNamespace(path=sys.argv[1], uri=sys.argv[1])
run_step("train", lambda run: follow(nodes=2), run=run, label=sys.argv[2])
"""


def test_a_follower_that_is_killed_is_followed_by_the_next_try(cluster, kubernetes, pipelines, told, tmp_path):
    cluster.resolve()
    kubernetes.play = script(two)
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([here, os.path.dirname(here), *sys.path])
    command = [sys.executable, "-c", FOLLOW, artifact(cluster.run).path, cluster.variant.label]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths})
    deadline = time.monotonic() + 120
    while not (kubernetes.created and kubernetes.pods) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert (len(kubernetes.created), kubernetes.deleted, list(kubernetes.jobs)) == (1, [], [NAME])
    kubernetes.play = script(two, complete)
    cluster.train()
    cluster.promote()
    cluster.exit("COMPLETE")
    assert len(kubernetes.created) == 1
    assert cluster.mlflow() == (["FINISHED", "FINISHED"], "")
    assert [body["state"] for body in told] == ["SUCCEEDED"]
    assert followed(pipelines, "succeeded").exit_code == 0


def test_a_kubernetes_api_that_is_away_for_a_while(cluster, kubernetes, pipelines, told):
    def leave(server):
        server.away = 503
        threading.Timer(0.3, setattr, (server, "away", None)).start()

    cluster.resolve()
    kubernetes.play = script(two, leave, two, complete)
    cluster.train()
    cluster.promote()
    cluster.exit("COMPLETE")
    assert cluster.mlflow() == (["FINISHED", "FINISHED"], "")
    pipelines.away = 0
    assert followed(pipelines, "succeeded").exit_code == 0


def test_a_pipelines_server_that_is_away_while_somebody_waits(cluster, pipelines):
    cluster.resolve()
    cluster.promote()
    pipelines.acts = [lambda: None, lambda: setattr(pipelines, "away", 2)]
    assert followed(pipelines, "succeeded", looks=5).exit_code == 0


def test_a_step_that_is_cancelled_has_not_failed(request, store, kubernetes, monkeypatch):
    """It gets SIGTERM, deletes its TrainJob and dies; nobody watches, and the next run closes it."""
    gone = Cluster(request)
    gone.resolve()
    kubernetes.play = script(two, lambda server: os.kill(os.getpid(), signal.SIGTERM), two)
    with pytest.raises(SystemExit) as ended:
        gone.train()
    assert ended.value.code == 143
    assert kubernetes.deleted == [NAME]
    MlflowClient().set_tag(gone.run.tracking_run, "cliptea.heartbeat", "2026-01-01T00:00:00+00:00")
    state.close_silent_runs(lambda job_id: "KILLED")
    assert gone.mlflow()[0] == ["RUNNING", "RUNNING"]  # its last sign of life on the board is too young
    monkeypatch.setattr(state, "QUIET_SECONDS", 0.0)
    state.close_silent_runs(lambda job_id: "KILLED")
    states, why = gone.mlflow()
    assert states == ["KILLED", "KILLED"]
    assert "Pipelines reports that it has ended" in why


@pytest.mark.parametrize(
    ("work", "state_", "end"), [("promote", "COMPLETE", "FINISHED"), ("train", "FAILED", "FAILED")]
)
def test_mlflow_that_is_away_at_the_end_is_told_the_truth_by_the_next_sweep(
    cluster, kubernetes, monkeypatch, told, work, state_, end
):
    """The steps have written to the store how they ended."""
    cluster.resolve()
    kubernetes.play = script(two, fails(p0=1))
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        away.setenv("CLIPTEA_PATIENCE", "0")
        if work == "promote":
            cluster.promote()
        else:
            away.setattr(ChildRun, "open", lambda run, variant: SimpleNamespace(finish=lambda: None))
            with pytest.raises(SystemExit):
                cluster.train()
        cluster.exit(state_)
    assert [body["state"] for body in told] == ["SUCCEEDED" if end == "FINISHED" else "FAILED"]
    assert cluster.mlflow()[0] == ["RUNNING"]
    MlflowClient().set_tag(cluster.run.tracking_run, "cliptea.heartbeat", "2026-01-01T00:00:00+00:00")
    monkeypatch.setattr(state, "SILENCE_SECONDS", 0.0)
    state.close_silent_runs()
    states, why = cluster.mlflow()
    assert states == [end]
    assert ("its process ended with code 1" in why) == (end == "FAILED")
