"""`cliptea submit` and `cliptea schedule` against a server that speaks KFP's API."""

import json
import re
import time

import pytest
import yaml
from compiled import compiled_text
from replay import recorded
from typer.testing import CliRunner
from watched import QUICK

from cliptea.errors import ConfigError
from cliptea_pipeline import submit as submitting
from cliptea_pipeline import watch
from cliptea_pipeline.cli import app
from cliptea_pipeline.endpoint import Away, Endpoint, EndpointError
from cliptea_pipeline.schedule import create, require_cron

pytestmark = pytest.mark.usefixtures("watching")

SMOKE = submitting.parameters("smoke", [])


def call(*arguments):
    return CliRunner().invoke(app, arguments)


def test_submit_uploads_a_version_once_and_starts_typed_runs(pipelines):
    first = call("submit", "--preset", "smoke", "--set", "seeds=2", "--set", "data.seed=1")
    assert (first.exit_code, first.stdout) == (0, f"run {pipelines.url}/#/runs/details/runs-0\n")
    assert (
        "warning: the image cliptea:0.1.0 names no registry, so only nodes that already hold it can run it"
        in first.stderr
    )
    second = call("submit", "--preset", "smoke")
    assert second.exit_code == 0
    assert [item["display_name"] for item in pipelines.held["pipelines"]] == ["cliptea"]
    assert len(pipelines.uploads) == len(pipelines.held["versions"]) == 1
    given = [run["runtime_config"]["parameters"] for run in pipelines.held["runs"]]
    assert given[0] == {
        "preset": "smoke",
        "config": "",
        "overrides": ["seeds=2", "data.seed=1"],
        "skip_unchanged": False,
        "part": "",
    }
    versions = {run["pipeline_version_reference"]["pipeline_version_id"] for run in pipelines.held["runs"]}
    assert versions == {"versions-0"}
    assert [item["display_name"] for item in pipelines.held["experiments"]] == ["cliptea"]


def test_another_pipeline_is_another_version(pipelines, tmp_path):
    call("submit", "--preset", "smoke")
    file = tmp_path / "p.yaml"
    assert call("compile", "--image", "host/cliptea:2", "-o", str(file)).exit_code == 0
    for _ in range(2):
        ended = call("submit", "--preset", "smoke", "--pipeline", str(file))
        assert (ended.exit_code, ended.stderr) == (0, "")
    assert len(pipelines.held["versions"]) == 2
    assert len(pipelines.held["pipelines"]) == 1


def test_a_file_that_is_an_older_version(pipelines, tmp_path):
    """A run has what is submitted, and says that schedules do not; a schedule makes its file the latest again."""
    for number in (1, 2):
        call("compile", "--image", f"host/cliptea:{number}", "-o", str(tmp_path / f"{number}.yaml"))
        call("submit", "--preset", "smoke", "--pipeline", str(tmp_path / f"{number}.yaml"))
    old, new = (version["display_name"] for version in pipelines.held["versions"])
    ended = call("submit", "--preset", "smoke", "--pipeline", str(tmp_path / "1.yaml"))
    assert ended.stderr == f"note: this run uses version {old}; schedules keep using the newest upload, {new}\n"
    assert pipelines.held["runs"][-1]["pipeline_version_reference"]["pipeline_version_id"] == "versions-0"
    for name in ("a", "b"):
        call(
            "schedule", "--cron", "@daily", "--preset", "smoke", "--name", name, "--pipeline", str(tmp_path / "1.yaml")
        )
    assert [version["display_name"] for version in pipelines.held["versions"]] == [old, new, f"{old}-2"]
    ended = call("submit", "--preset", "smoke", "--pipeline", str(tmp_path / "1.yaml"))
    assert (ended.stderr, len(pipelines.held["versions"])) == ("", 3)


def test_the_name_of_a_schedule_is_shown_without_control_characters(pipelines):
    ended = call("schedule", "--cron", "@daily", "--preset", "smoke", "--name", "a\x1b[31mred")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith(r"created the schedule a\x1b[31mred: @daily, in the time zone")


@pytest.mark.parametrize(
    ("life", "code", "states"),
    [
        ("succeeded", 0, ["pending", "running", "succeeded"]),
        ("skipped", 0, ["pending", "running", "succeeded"]),
        ("failed", 1, ["pending", "running", "failed"]),
        ("cancelled", 3, ["pending", "running", "cancelled"]),
    ],
)
def test_wait_ends_with_the_runs_state(pipelines, life, code, states):
    pipelines.life, pipelines.looks = recorded(life), 12
    ended = call("submit", "--preset", "smoke", "--wait")
    assert ended.exit_code == code
    assert re.findall(r"(?m)^(\w+) after ", ended.stdout) == states


def test_a_server_that_is_away_for_a_while_is_waited_for(pipelines):
    endpoint = Endpoint()
    run = submitting.submit(endpoint, SMOKE)
    pipelines.away = 2
    assert watch.wait(endpoint, run) == 0
    pipelines.away = 10**6
    with pytest.raises(Away, match="answers 503"):
        watch.wait(endpoint, run)


@pytest.fixture
def slow(pipelines, monkeypatch):
    """Pipelines that takes a second for its answer to a new run or schedule."""
    at_once = pipelines.answer

    def answer(method, url, *rest):
        answered = at_once(method, url, *rest)
        if method == "POST" and url.partition("?")[0].endswith(("/runs", "/recurringruns")):
            time.sleep(1.2)
        return answered

    monkeypatch.setattr(pipelines, "answer", answer)
    return pipelines


def test_a_busy_server_has_more_time_than_one_that_may_not_be_there(slow, monkeypatch):
    monkeypatch.setattr("cliptea_pipeline.endpoint.TIMEOUT", (3, 1))
    assert submitting.submit(Endpoint(), SMOKE) == "runs-0"


def test_a_run_that_may_have_started_is_told(slow, monkeypatch):
    monkeypatch.setattr("cliptea_pipeline.endpoint.BUSY_TIMEOUT", (3, 0.6))
    with pytest.raises(Away, match=r"has not answered a request \(no answer in time\); the run may have started"):
        submitting.submit(Endpoint(), SMOKE)
    assert [run["run_id"] for run in slow.held["runs"]] == ["runs-0"]
    with pytest.raises(Away, match="the schedule may exist all the same"):
        create(Endpoint(), "nightly", "@daily", SMOKE)
    assert len(slow.held["recurringruns"]) == 1


@pytest.mark.parametrize(("status", "told"), [(504, True), (503, True), (500, True), (429, False)])
def test_a_gateway_that_gives_up_may_have_started_a_run(pipelines, monkeypatch, status, told):
    at_once = pipelines.answer

    def answer(method, url, *rest):
        if method == "POST" and url.partition("?")[0].endswith("/runs"):
            return status, "gave up"
        return at_once(method, url, *rest)

    monkeypatch.setattr(pipelines, "answer", answer)
    with pytest.raises(Away, match=f"answers {status}") as caught:
        submitting.submit(Endpoint(), SMOKE)
    assert ("the run may have started" in str(caught.value)) == told


def test_a_refusal_is_not_waited_for(pipelines):
    endpoint, patient = Endpoint(), QUICK._replace(outage=60.0)
    run = submitting.submit(endpoint, SMOKE)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"the run 'gone' does not exist \(.* answers 404: runs gone not found\)"):
        watch.wait(endpoint, "gone", pace=patient)
    pipelines.token = "changed"
    with pytest.raises(EndpointError, match=r"denies access \(401"):
        watch.wait(endpoint, run, pace=patient)
    assert time.monotonic() - start < 30


def test_wrong_settings_send_nothing(pipelines):
    ended = call("submit", "--set", "train.iteration=1")
    assert ended.exit_code == 2
    assert "the setting train.iteration does not exist" in ended.output
    assert pipelines.uploads == []


def test_a_pipeline_that_was_deleted_is_uploaded_again(pipelines):
    call("submit", "--preset", "smoke")
    call("schedule", "--cron", "@daily", "--preset", "smoke")
    pipelines.held["pipelines"].clear()
    pipelines.held["versions"].clear()
    pipelines.held["recurringruns"].append({"recurring_run_id": "x", "display_name": "of a file, not of a pipeline"})
    assert call("schedule", "--list").output.count("\n") == 1
    assert call("schedule", "--list").output.split("\t")[1].startswith("enabled, follows a pipeline that was deleted")
    pipelines.held["pipelines"].append({"pipeline_id": "other", "display_name": "other"})
    assert call("submit", "--preset", "smoke").exit_code == 0
    assert [item["display_name"] for item in pipelines.held["pipelines"]] == ["other", "cliptea"]
    assert pipelines.held["runs"][-1]["pipeline_version_reference"]["pipeline_id"] == "pipelines-1"
    assert call("schedule", "--delete", "cliptea-smoke").output == "deleted the schedule cliptea-smoke\n"
    assert call("schedule", "--list").output == "no schedules\n"
    assert "the schedule 'a' does not exist: there are no schedules" in call("schedule", "--pause", "a").output
    nothing = call("schedule")
    assert (nothing.exit_code, nothing.output) == (
        2,
        "error: no action is given; expected one of --cron, --list, --pause, --resume, --delete\n",
    )


def test_a_server_of_several_users_wants_a_namespace(pipelines):
    pipelines.multi_user = True
    refused = call("submit", "--preset", "smoke")
    assert (refused.exit_code, refused.output.count("\n")) == (2, 1)
    assert "is in multi-user mode; expected the namespace of a user; add --namespace" in refused.output
    for namespace in ("a", "b", "a"):
        assert call("submit", "--preset", "smoke", "--namespace", namespace).exit_code == 0
    for kind in ("pipelines", "experiments"):
        assert [item["namespace"] for item in pipelines.held[kind]] == ["a", "b"]
    assert call("schedule", "--cron", "@daily", "--preset", "smoke", "--namespace", "a").exit_code == 0
    assert "cliptea-smoke" in call("schedule", "--list", "--namespace", "a").output


def test_a_server_of_one_user_is_asked_for_no_namespace(pipelines):
    assert call("submit", "--preset", "smoke", "--namespace", "kubeflow").exit_code == 0
    assert call("schedule", "--list", "--namespace", "kubeflow").exit_code == 0


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (None, 2, "cannot read the pipeline"),
        (
            "launcher: trainjob",
            2,
            "p.yaml is not a compiled cliptea pipeline; expected a file that `cliptea compile -o`",
        ),
        ("a: [", 2, "p.yaml is not a compiled cliptea pipeline"),
        ("", 2, "p.yaml is not a compiled cliptea pipeline"),
    ],
)
def test_a_file_that_is_no_pipeline(pipelines, tmp_path, text, code, says):
    file = tmp_path / "p.yaml"
    if text is not None:
        file.write_text(text)
    ended = call("submit", "--preset", "smoke", "--pipeline", str(file))
    assert (ended.exit_code, ended.output.count("\n"), says in ended.output) == (code, 1, True)
    assert pipelines.uploads == pipelines.held["runs"] == []


def test_a_pipeline_of_another_version_is_not_taken_for_another_file(pipelines, tmp_path):
    spec, *others = yaml.safe_load_all(compiled_text({}))
    del spec["root"]["inputDefinitions"]["parameters"]["config"]
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump_all([spec, *others]))
    ended = call("submit", "--preset", "smoke", "--pipeline", str(file))
    assert (ended.exit_code, ended.output) == (
        2,
        f"error: {file} was compiled by another version of cliptea; expected a file that `cliptea compile -o` wrote; "
        "compile it again\n",
    )
    assert pipelines.uploads == []


def test_no_endpoint_gives_one_line(monkeypatch):
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    ended = call("submit")
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert "no Kubeflow Pipelines endpoint is set" in ended.output


def test_an_endpoint_without_a_server_gives_one_line(pipelines):
    pipelines.close()
    ended = call("submit", "--preset", "smoke")
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert f"cannot be reached at {pipelines.url}" in ended.output


def test_the_token_is_sent_and_never_shown(pipelines, monkeypatch):
    pipelines.token = "hush"
    refused = call("submit", "--preset", "smoke")
    assert (refused.exit_code, "denies access (401: the token is not valid)" in refused.output) == (1, True)
    monkeypatch.setenv("KFP_TOKEN", "hush")
    accepted = call("submit", "--preset", "smoke")
    assert accepted.exit_code == 0
    assert "hush" not in accepted.output


def test_a_schedule_follows_the_latest_version_without_overlap_and_catch_up(pipelines):
    made = call("schedule", "--cron", "0 0 3 * * 0 ", "--preset", "smoke", "--set", "seeds=2")
    assert made.exit_code == 0
    assert "UTC by default" in made.output
    (schedule,) = pipelines.held["recurringruns"]
    assert schedule["pipeline_version_reference"] == {"pipeline_id": "pipelines-0"}
    assert schedule["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * 0"}}
    assert (schedule["max_concurrency"], schedule["no_catchup"], schedule["mode"]) == ("1", True, "ENABLE")
    given = {"preset": "smoke", "config": "", "overrides": ["seeds=2"], "skip_unchanged": True, "part": ""}
    assert schedule["runtime_config"]["parameters"] == given
    call("schedule", "--cron", "@daily", "--name", "b", "--preset", "smoke", "--always")
    assert pipelines.held["recurringruns"][1]["runtime_config"]["parameters"]["skip_unchanged"] is False


def test_schedules_are_listed_paused_resumed_and_deleted(pipelines):
    for name in ("a", "b"):
        call("schedule", "--cron", "0 0 3 * * 0", "--preset", "smoke", "--name", name)
    pipelines.held["recurringruns"].append(
        {"recurring_run_id": "x", "display_name": "other", "pipeline_version_reference": {"pipeline_id": "y"}}
    )
    assert call("schedule", "--pause", "b").output == "paused the schedule b\n"
    lines = call("schedule", "--list").output.splitlines()
    assert lines == ["a\tenabled\t0 0 3 * * 0\tpreset smoke", "b\tdisabled\t0 0 3 * * 0\tpreset smoke"]
    assert call("schedule", "--resume", "b").exit_code == 0
    assert pipelines.held["recurringruns"][1]["status"] == "ENABLED"
    assert call("schedule", "--delete", "a").exit_code == 0
    assert [item["display_name"] for item in pipelines.held["recurringruns"]] == ["b", "other"]
    gone = call("schedule", "--delete", "a")
    assert (gone.exit_code, "the schedule 'a' does not exist; expected one of b" in gone.output) == (2, True)


def test_schedules_of_earlier_versions_are_found_without_their_pipeline(pipelines):
    call("schedule", "--cron", "0 0 3 * * 0", "--preset", "smoke", "--name", "a")
    (schedule,) = pipelines.held["recurringruns"]
    del schedule["runtime_config"]["parameters"]["config"]
    schedule["pipeline_version_reference"]["pipeline_id"] = "deleted"
    state = "enabled, follows a pipeline that was deleted or has another name"
    assert call("schedule", "--list").output == f"a\t{state}\t0 0 3 * * 0\tpreset smoke\n"


def test_a_name_is_taken_once(pipelines):
    arguments = ("schedule", "--cron", "@daily", "--preset", "smoke")
    assert call(*arguments).exit_code == 0
    again = call(*arguments)
    assert (again.exit_code, again.output.count("\n")) == (2, 1)
    assert (
        "the schedule 'cliptea-smoke' already exists; expected a new name; choose one with --name, or" in again.output
    )
    assert len(pipelines.held["recurringruns"]) == 1


def test_a_cron_of_five_fields_is_explained(pipelines):
    ended = call("schedule", "--cron", "0 3 * * 0", "--preset", "smoke")
    assert (ended.exit_code, ended.output.count("\n")) == (2, 1)
    assert "six fields (yours has five: add 0, the second, at the front)" in ended.output
    assert pipelines.uploads == []


def test_a_cron_that_the_server_refuses_is_told_in_its_words(pipelines):
    ended = call("schedule", "--cron", "@every 99h", "--preset", "smoke")
    assert (ended.exit_code, ended.output.count("\n")) == (1, 1)
    assert "answers 400: Schedule cron is not supported: @every 99h" in ended.output


@pytest.mark.parametrize("arguments", [(), ("--list", "--delete", "x"), ("--cron", "@daily", "--list")])
def test_one_thing_is_asked_for(pipelines, arguments):
    assert call("schedule", *arguments).exit_code == 2


@pytest.mark.parametrize(
    "cron",
    [
        "0 0 3 * * 0", "*/30 * * * * ?", "0 0 9 ? * MON-FRI", "0 05,35 8-18/2 1,15 Jan,7 *", "@weekly", "@every 1h30m",
        "0 0 3 * *  0",
    ],
)  # fmt: skip
def test_crons_that_kfp_reads(cron):
    require_cron(cron)


@pytest.mark.parametrize(
    "cron",
    [
        "0 3 * * 0", "", "0 0 3 * * 0 0", "@sometimes", "0 0 3 * * ;", "0 0 3 * * 7", "0 0 25 * * *", "0 0 3 0 * *",
        "0 0 3 * 13 *", "0 0 3 * * SUNDAY", "60 * * * * *", "0 0 5-3 * * *", "0 0/0 * * * *", "@every 5", "@every 0h",
        "0 3  * * *", "0 0 3 * * -5", "0 0 3 * * 1-", "/5 * * * * *",
    ],
)  # fmt: skip
def test_crons_that_it_does_not(cron):
    with pytest.raises(ConfigError, match="six fields"):
        require_cron(cron)


def test_json_of_submit_is_one_document(pipelines):
    ended = call("submit", "--preset", "smoke", "--json")
    page = f"{pipelines.url}/#/runs/details/runs-0"
    assert json.loads(ended.stdout) == {"run": "runs-0", "address": page}
    assert ended.stderr.splitlines()[-1] == f"run {page}"
    refused = call("submit", "--preset", "smoke", "--set", "nonsense=1", "--json")
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("life", "code", "state"), [("succeeded", 0, "FINISHED"), ("failed", 1, "FAILED"), ("cancelled", 3, "KILLED")]
)
def test_json_of_a_run_that_is_waited_for_has_its_end(pipelines, life, code, state):
    pipelines.life = recorded(life)
    ended = call("submit", "--preset", "smoke", "--wait", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["state"]) == (code, state)
    assert "resolve: " in ended.stderr  # the steps


def test_json_of_a_run_that_is_no_longer_watched_says_that_it_goes_on(pipelines):
    """Such as when the token expires in between."""
    pipelines.life = recorded("succeeded")
    pipelines.stuck = 0.5
    pipelines.acts = [lambda: setattr(pipelines, "token", "renewed")]
    ended = call("submit", "--preset", "smoke", "--wait", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["state"] == "RUNNING"
    assert "denies access (401: the token" in ended.stderr.splitlines()[-1]


def test_json_of_a_run_that_goes_on_unwatched(pipelines, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "look", stop)
    ended = call("submit", "--preset", "smoke", "--wait", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["state"]) == (130, "RUNNING")


def test_json_of_schedules(pipelines):
    assert json.loads(call("schedule", "--list", "--json").stdout) == {"schedules": []}
    call("schedule", "--cron", "0 0 3 * * 0", "--preset", "smoke", "--name", "a\tb")
    ended = call("schedule", "--list", "--json")
    shown = {"name": "a\tb", "state": "enabled", "cron": "0 0 3 * * 0", "preset": "smoke"}
    (found,) = json.loads(ended.stdout)["schedules"]
    assert found == shown | {"id": pipelines.held["recurringruns"][0]["recurring_run_id"]}
    refused = call("schedule", "--pause", "a", "--json")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--json is only for --list" in refused.stderr
