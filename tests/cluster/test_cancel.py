"""`cliptea cancel`: a run, its TrainJobs and its MLflow runs are ended, and what could not be done is said."""

import os
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from mlflow import MlflowClient
from replay import recorded
from typer.testing import CliRunner
from watched import RUN

from cliptea import settings
from cliptea.cluster.job import build, job_name
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.cluster.kubernetes_api import ClusterError, connect
from cliptea.run import Run, expand
from cliptea.tracking import state
from cliptea.tracking.run_times import Tag
from cliptea.tracking.runs import ChildRun, open_parent
from cliptea_pipeline import cancel as cancelling
from cliptea_pipeline import submit
from cliptea_pipeline.cli import app
from cliptea_pipeline.endpoint import Endpoint

UNNAMED = "MLflow: MLFLOW_TRACKING_URI is not set here; the next run closes the runs that are still open there"


@pytest.fixture
def cluster(watching, kubernetes):
    """A cluster with two TrainJobs of the run and one of another run."""
    kubernetes.granted = None  # the user's own rights
    for job_id, label in ((RUN, "g/a"), (RUN, "g/b"), ("other", "g/a")):
        connect().create(build(job_id, label, ["train"], JobSettings(image="i:1"), Passed(), []))
    return kubernetes


@pytest.fixture
def mlflow(watching, monkeypatch, tmp_path, empty_database):
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path)}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("CLIPTEA_EVENTS", str(tmp_path / "events"))
    return MlflowClient(uri)


@pytest.fixture(autouse=True)
def _quick(watching, monkeypatch):
    monkeypatch.setattr(cancelling, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cancelling, "PATIENCE_SECONDS", 5.0)


def at_work(pipelines):
    pipelines.life, pipelines.looks, pipelines.stuck = recorded("cancelled"), 10, 0.8
    assert submit.submit(Endpoint(), submit.parameters("smoke", [])) == RUN


def call(*arguments):
    return CliRunner().invoke(app, arguments)


def tracked(job_id, heartbeat=None):
    """MLflow's run of a pipeline job and that of one variant, both at work."""
    config = settings.load("smoke")
    variants = expand(config)
    run = Run(config=config, data_digest="d", fingerprint=job_id, job_id=job_id, tracking_run="", variants=variants)
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    if heartbeat is not None:
        past = datetime.now(UTC) - heartbeat
        MlflowClient().set_tag(run.tracking_run, Tag.HEARTBEAT, past.isoformat(timespec="seconds"))
    return run.tracking_run, ChildRun.open(run, variants[0]).run_id


def states(mlflow, ids):
    return [mlflow.get_run(run_id).info.status for run_id in ids]


def test_everything_is_ended_and_said(pipelines, cluster, mlflow):
    ids = tracked(RUN)
    at_work(pipelines)
    ended = call("cancel", RUN)
    lines = ended.stdout.splitlines()
    assert ended.exit_code == 0
    assert lines[:4] == [
        "run: asked Pipelines to end it",
        "run: cancelled",
        f"TrainJobs: deleted {job_name(RUN, 'g/a')}",
        f"TrainJobs: deleted {job_name(RUN, 'g/b')}",
    ]
    assert lines[4].startswith("MLflow: closed ")
    assert lines[4].endswith(" as KILLED")
    assert len(lines) == 5
    assert list(cluster.jobs) == [job_name("other", "g/a")]
    assert states(mlflow, ids) == ["KILLED", "KILLED"]
    assert "cancelled by cliptea cancel" in mlflow.get_run(ids[0]).data.tags["mlflow.note.content"]
    again = call("cancel", RUN)
    assert (again.exit_code, again.stdout.splitlines()) == (
        0,
        [
            "run: it has already ended (cancelled)",
            "TrainJobs: none are left in namespace team",
            "MLflow: it has no open runs",
        ],
    )
    assert len(pipelines.ending) == 1


def test_without_kubernetes_and_mlflow_it_says_what_happens_then(pipelines):
    at_work(pipelines)
    ended = call("cancel", RUN)
    first, second, jobs, tracking = ended.stdout.splitlines()
    assert (ended.exit_code, first, second) == (0, "run: asked Pipelines to end it", "run: cancelled")
    assert jobs.startswith("TrainJobs: could not be listed (no Kubernetes cluster is configured")
    assert jobs.endswith("; training stops on its own soon after its step is gone")
    assert tracking == UNNAMED


@pytest.mark.parametrize("content", ["apiVersion: v1\n\tkind: Config\n", "[" * 3000, None])
def test_a_damaged_kubeconfig_does_not_keep_mlflow_from_being_closed(pipelines, monkeypatch, tmp_path, content):
    if content is None:
        os.mkfifo(tmp_path / "config")
    else:
        (tmp_path / "config").write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    at_work(pipelines)
    ended = call("cancel", RUN)
    jobs, tracking = ended.stdout.splitlines()[-2:]
    assert ended.exit_code == 0
    assert jobs.startswith(
        f"TrainJobs: could not be listed ({tmp_path}/config is not the configuration file of a cluster"
    )
    assert tracking == UNNAMED


def test_a_pod_does_not_look_at_the_configuration_file_of_its_user(monkeypatch, tmp_path):
    (tmp_path / ".kube" / "config").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(ClusterError, match="config is not the configuration file of a cluster"):
        connect()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ClusterError, match="no Kubernetes cluster is configured"):  # this is no real pod
        connect()


def test_a_run_that_is_deleted_meanwhile_has_ended(pipelines):
    at_work(pipelines)
    pipelines.acts = [lambda: None, pipelines.held["runs"].clear]
    ended = call("cancel", RUN)
    assert (ended.exit_code, ended.stdout.splitlines()[1]) == (0, "run: cancelled")


def test_a_cluster_without_trainer_has_no_trainjobs(pipelines, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "answer", lambda *request: (404, "404 page not found\n"))
    at_work(pipelines)
    ended = call("cancel", RUN)
    assert ended.exit_code == 0
    assert "TrainJobs: the cluster has no Kubeflow Trainer, so there are none" in ended.stdout.splitlines()


def test_a_cluster_that_is_away_costs_a_line(pipelines, cluster, monkeypatch):
    cluster.away = 503
    at_work(pipelines)
    ended = call("cancel", RUN)
    assert ended.exit_code == 0
    assert re.search(
        r"TrainJobs: could not be listed \(the Kubernetes API answers 503 .*\); training stops", ended.stdout
    )


def test_an_mlflow_that_is_away_costs_a_line(pipelines, cluster, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
    at_work(pipelines)
    ended = call("cancel", RUN)
    assert ended.exit_code == 0
    assert ended.stdout.splitlines()[-1].startswith("MLflow: ")
    assert ended.stdout.splitlines()[-1].endswith("; the next run closes the runs that are still open there")


def test_trainjobs_that_cannot_be_deleted_cost_a_line(pipelines, cluster):
    cluster.denied = {("delete", "trainjobs")}
    at_work(pipelines)
    ended = call("cancel", RUN)
    assert ended.exit_code == 0
    assert re.search(
        r"TrainJobs: could not be deleted \(.* may not delete trainjobs .*\); training stops", ended.stdout
    )


@pytest.mark.parametrize(
    ("life", "word", "state"),
    [("succeeded", "succeeded", "FINISHED"), ("failed", "failed", "FAILED"), ("cancelled", "cancelled", "KILLED")],
)
def test_a_run_that_is_over_is_tidied_up_with_its_true_state(pipelines, cluster, mlflow, life, word, state):
    pipelines.life = recorded(life)
    submit.submit(Endpoint(), submit.parameters("smoke", []))
    ids = tracked(RUN)
    ended = call("cancel", RUN)
    assert (ended.exit_code, ended.stdout.splitlines()[0]) == (0, f"run: it has already ended ({word})")
    assert list(cluster.jobs) == [job_name("other", "g/a")]
    assert states(mlflow, ids)[0] == state
    assert pipelines.ending == {}


def test_the_address_that_submit_printed_is_taken(pipelines, monkeypatch):
    printed = call("submit", "--preset", "smoke").stdout.splitlines()[0].removeprefix("run ")
    monkeypatch.delenv("KFP_ENDPOINT")
    assert call("cancel", printed).exit_code == 0


def test_the_token_of_one_server_is_not_sent_to_the_server_of_an_address(pipelines, monkeypatch):
    ours = os.environ["KFP_ENDPOINT"]
    at_work(pipelines)
    monkeypatch.setenv("KFP_TOKEN", "S3cretToken")
    refused = call("cancel", f"http://127.0.0.1:9/#/runs/details/{RUN}")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == (
        f"error: the run is on http://127.0.0.1:9, but KFP_ENDPOINT or KF_PIPELINES_ENDPOINT names {ours}; expected a "
        "run of that server; add --endpoint http://127.0.0.1:9 if you trust it with your token\n"
    )
    assert call("cancel", f"{ours}/#/runs/details/{RUN}").exit_code == 0
    assert call("cancel", f"http://127.0.0.1:9/#/runs/details/{RUN}", "--endpoint", ours).exit_code == 0


@pytest.mark.parametrize("arguments", [["submit", "--preset", "smoke"], ["cancel", RUN], ["schedule", "--list"]])
def test_an_endpoint_with_a_password_is_refused_and_not_shown(arguments, monkeypatch):
    monkeypatch.setenv("KFP_ENDPOINT", "https://ci:S3cretPass@127.0.0.1:9")
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert "the address of Kubeflow Pipelines holds a user, password or signature" in refused.stderr
    assert "S3cretPass" not in refused.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "--experiment", "caf\udce9"],
        ["submit", "--namespace", "caf\udce9"],
        ["submit", "--endpoint", "http://caf\udce9"],
        ["submit", "--config", "caf\udce9.yaml"],
        ["submit", "--set", "data.root=caf\udce9"],
        ["schedule", "--name", "caf\udce9", "--cron", "@daily"],
        ["schedule", "--pause", "caf\udce9"],
        ["cancel", "caf\udce9"],
    ],
    ids=str,
)
def test_what_is_not_utf8_is_refused_in_one_line(pipelines, arguments):
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert " is not UTF-8; expected text in UTF-8" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "run_id", "server"),
    [
        ("r-1", "r-1", None),
        ("http://host:8080/#/runs/details/r-1", "r-1", "http://host:8080"),
        (" http://host/pipeline/#/runs/details/r-1/ ", "r-1", "http://host/pipeline"),
        ("https://host/?ns=team#/runs/details/r-1", "r-1", "https://host"),
        ("https://host/pipeline/?ns=team#/runs/details/r-1?tab=graph", "r-1", "https://host/pipeline"),
    ],
)
def test_addresses_of_a_run(given, run_id, server):
    assert cancelling.parse(given) == (run_id, server)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "no run is given"),
        ("http://host/#/runs/details/", "no run is given"),
        ("https://host/#/runs/details?ns=team", "https://host/#/runs/details?ns=team is not the address of a run"),
        ("http://host/#/experiments/e-1", "http://host/#/experiments/e-1 is not the address of a run"),
    ],
)
def test_what_names_no_run_is_refused_before_a_server_is_asked(monkeypatch, given, says):
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    ended = call("cancel", given)
    expected = "expected the ID of a run, or the address that `cliptea submit` printed"
    assert (ended.exit_code, ended.stderr) == (2, f"error: {says}; {expected}\n")


def test_an_unknown_run(pipelines):
    ended = call("cancel", "nothing")
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert "the run 'nothing' does not exist" in ended.stderr
    assert "the address that `cliptea submit` printed" in ended.stderr


def test_a_run_that_does_not_end(pipelines, cluster, monkeypatch):
    monkeypatch.setattr(cancelling, "PATIENCE_SECONDS", 0.1)
    at_work(pipelines)
    monkeypatch.setattr(pipelines, "ending", Stubborn())
    ended = call("cancel", RUN)
    assert ended.exit_code == 1
    assert "run: Pipelines still reports canceling after 0 s; run the same command again" in ended.stderr
    assert list(cluster.jobs) == [job_name("other", "g/a")]


class Stubborn(dict):
    """Looks at a run that is asked to end, and never does."""

    def __setitem__(self, name, looks):
        pass


def test_a_watched_run_that_is_cancelled_leaves_nothing_open(pipelines, mlflow):
    ids = tracked(RUN)
    pipelines.life, pipelines.looks = recorded("cancelled"), 5
    ended = call("submit", "--preset", "smoke", "--wait")
    assert ended.exit_code == 3
    assert states(mlflow, ids) == ["KILLED", "KILLED"]
    assert ended.stderr.splitlines()[-1].startswith("MLflow: closed ")


def test_a_watched_run_that_failed_leaves_nothing_open(pipelines, mlflow):
    ids = tracked(RUN)
    pipelines.life = recorded("failed")
    assert call("submit", "--preset", "smoke", "--wait").exit_code == 1
    assert states(mlflow, ids) == ["FAILED", "KILLED"]


@pytest.mark.parametrize("command", [["schedule", "--list"], ["submit", "--preset", "smoke", "--wait"]])
def test_earlier_runs_that_ended_without_a_word_are_closed(pipelines, mlflow, command):
    """Of those that are silent: one that is over, one that works still, and one that this server does not know."""
    over = tracked("runs-0", timedelta(minutes=10))
    unknown = tracked("elsewhere", timedelta(minutes=10))
    pipelines.life = recorded("cancelled")
    submit.submit(Endpoint(), submit.parameters("smoke", []))
    ended = call(*command)
    assert ended.exit_code == (0 if command[0] == "schedule" else 3)
    notes = [line for line in ended.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1
    assert notes[0].endswith(": closed as KILLED; Pipelines reports that it has ended")
    assert states(mlflow, [over[0], unknown[0]]) == ["KILLED", "RUNNING"]


@pytest.mark.parametrize(
    ("life", "end"),
    [
        ("succeeded", "FINISHED"),
        ("skipped", "FINISHED"),
        ("failed", "FAILED"),
        ("cancelled", "KILLED"),
        ("", "RUNNING"),
    ],
)
def test_a_sweep_is_told_how_runs_have_ended(pipelines, mlflow, monkeypatch, life, end):
    told = {}

    def sweep(ended):
        told.update({job: ended(job) for job in (RUN, "elsewhere")})
        pipelines.away = 1
        told["away"] = ended(RUN)
        pipelines.token = "of somebody else"
        told["denied"] = ended(RUN)
        pipelines.token = None
        return []

    monkeypatch.setattr(state, "close_silent_runs", sweep)
    pipelines.life = recorded(life or "succeeded")
    if not life:
        pipelines.stuck, pipelines.looks = 0.5, 9
        pipelines.looked[RUN] = 5
    submit.submit(Endpoint(), submit.parameters("smoke", []))
    assert call("schedule", "--list").exit_code == 0
    assert told == {RUN: end, "elsewhere": None, "away": "RUNNING", "denied": "RUNNING"}


def test_a_sweep_that_fails_costs_a_line(pipelines, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("CLIPTEA_PATIENCE", "0")
    ended = call("schedule", "--list")
    assert ended.exit_code == 0
    assert "note: could not check MLflow for ended runs that are still open there: " in ended.stderr
