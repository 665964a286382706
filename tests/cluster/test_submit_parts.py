"""`cliptea submit --split`: several runs, one after another, against a server that speaks KFP's API."""

import json
import re

import pytest
import yaml
from compiled import compiled_text
from replay import recorded
from typer.testing import CliRunner

from cliptea import settings
from cliptea.parts import Part
from cliptea.run import expand
from cliptea_pipeline import submit, watch
from cliptea_pipeline.cli import app
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.fit import read_compiled

pytestmark = pytest.mark.usefixtures("watching")

ARGUMENT = 128 << 10  # bytes of one argument of a process on Linux; Pipelines gives a task its inputs in one
WORKFLOW = 1 << 20  # bytes, Argo's limit
NINE_STUDENTS, STUDENT = 103_000, 9_000  # bytes of a compressed workflow, as measured on a cluster


def call(*arguments):
    return CliRunner().invoke(app, ["submit", "--preset", "smoke", *arguments])


def of_each(pipelines, *lives):
    """Plays another recorded run for each run that is started."""
    runs = [recorded(life) for life in lives]
    pipelines.acts = [lambda: setattr(pipelines, "life", runs[len(pipelines.held["runs"]) - 1])] * 1000


def started(pipelines):
    return [run["runtime_config"]["parameters"]["part"] for run in pipelines.held["runs"]]


def test_parts_start_one_after_another(pipelines):
    ended = []
    pipelines.acts = [lambda: ended.append(len(pipelines.held["runs"]))] * 1000
    answer = call("--split", "3", "--set", "seeds=2")
    assert answer.exit_code == 0
    assert started(pipelines) == ["1/3", "2/3", "3/3 with 1-2"]
    assert ended[:3] == [1, 2, 3]  # the runs that exist when Pipelines is first asked for each
    assert [run["runtime_config"]["parameters"]["overrides"] for run in pipelines.held["runs"]] == [["seeds=2"]] * 3
    assert len(pipelines.uploads) == 1
    names = [run["display_name"] for run in pipelines.held["runs"]]
    assert all(re.match(rf"smoke {number}/3 \d{{4}}-", name) for number, name in enumerate(names, 1))
    assert [line for line in answer.stderr.splitlines() if line.startswith("part ")] == [
        f"part {number} of 3" for number in (1, 2, 3)
    ]
    assert len(re.findall(r"(?m)^succeeded after ", answer.stdout)) == 3


def test_json_names_every_run(pipelines):
    ended = call("--split", "2", "--json")
    assert ended.exit_code == 0
    page = f"{pipelines.url}/#/runs/details/runs-"
    assert json.loads(ended.stdout) == {
        "runs": [
            {"part": 1, "run": "runs-0", "address": f"{page}0", "state": "FINISHED"},
            {"part": 2, "run": "runs-1", "address": f"{page}1", "state": "FINISHED"},
        ]
    }


def test_a_part_that_fails_stops_no_other_and_is_named(pipelines):
    of_each(pipelines, "succeeded", "failed", "succeeded", "failed")
    ended = call("--split", "4", "--json")
    assert ended.exit_code == 1
    assert started(pipelines) == ["1/4", "2/4", "3/4", "4/4 with 1,3"]  # which the last comparison must have
    states = [run["state"] for run in json.loads(ended.stdout)["runs"]]
    assert states == ["FINISHED", "FAILED", "FINISHED", "FAILED"]
    assert "parts that have not finished: 2,4; to submit them, add --parts 2,4" in ended.stderr.splitlines()
    pipelines.acts, pipelines.life = [], recorded("succeeded")
    again = call("--split", "4", "--parts", "2,4")
    assert (again.exit_code, started(pipelines)[4:]) == (0, ["2/4", "4/4 with 2"])


def test_after_a_cancelled_part_none_starts(pipelines):
    of_each(pipelines, "succeeded", "cancelled")
    ended = call("--split", "4", "--json")
    assert ended.exit_code == 3
    assert [run["state"] for run in json.loads(ended.stdout)["runs"]] == ["FINISHED", "KILLED"]
    assert "parts that have not finished: 2-4; to submit them, add --parts 2-4" in ended.stderr.splitlines()


def test_after_ctrl_c_the_part_goes_on_and_none_starts(pipelines, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "look", stop)
    ended = call("--split", "2", "--json")
    assert ended.exit_code == 130
    assert [run["state"] for run in json.loads(ended.stdout)["runs"]] == ["RUNNING"]
    assert "stopped watching; the run continues, and `cliptea cancel runs-0` cancels it" in ended.stderr
    assert "parts that have not finished: 2; to submit them, add --parts 2" in ended.stderr.splitlines()


def test_when_the_server_denies_access_no_further_part_starts(pipelines):
    pipelines.stuck = 0.5
    pipelines.acts = [lambda: setattr(pipelines, "token", "renewed")]
    ended = call("--split", "3", "--json")
    assert ended.exit_code == 1
    assert [run["state"] for run in json.loads(ended.stdout)["runs"]] == ["RUNNING"]
    *_, left, error = ended.stderr.splitlines()
    assert left == "parts that have not finished: 1-3; to submit them, add --parts 1-3"  # it can no longer be watched
    assert "denies access (401: the token" in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--parts", "2"], "--parts is given without --split; expected --split N"),
        (["--split", "2", "--parts", "3"], "cannot read the parts '3'; expected numbers from 1 to 2"),
        (["--split", "5"], "4 students (variants times seeds) cannot be split into 5 runs; expected at most 4 runs"),
        (["--split", "2", "--set", "seeds=60"], "240 students (variants times seeds) are too many for 2 runs"),
        (["--set", "seeds=60"], "start 3 runs with one comparison: cliptea submit --split 3; or let the"),
    ],
)
def test_what_cannot_be_split_sends_nothing(pipelines, arguments, says):
    ended = call(*arguments, "--json")
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert says in ended.stderr
    assert pipelines.uploads == pipelines.held["runs"] == []


def test_a_schedule_has_no_part(pipelines):
    CliRunner().invoke(app, ["schedule", "--cron", "@daily", "--preset", "smoke"])
    (schedule,) = pipelines.held["recurringruns"]
    assert schedule["runtime_config"]["parameters"]["part"] == ""


def test_five_thousand_students_fit_the_limits_in_as_many_runs_as_plan_says():
    many = ["variants=[table3]", "seeds=1000"]
    sets = [item for one in many for item in ("--set", one)]
    planned = CliRunner().invoke(app, ["plan", "--preset", "smoke", *sets, "--json"])
    runs = json.loads(planned.stdout)["runs"]
    assert (planned.exit_code, json.loads(planned.stdout)["trainings"], runs) == (0, 5000, 50)
    assert "cliptea submit --split 50" in " ".join(planned.stderr.split())
    students = expand(settings.load("smoke", many))
    shares = [Part(number, runs).share(students) for number in range(1, runs + 1)]
    assert [student.label for share in shares for student in share] == [student.label for student in students]
    assert max(map(len, shares)) <= read_compiled(pipeline_file()).room
    assert NINE_STUDENTS + (max(map(len, shares)) - 9) * STUDENT < WORKFLOW
    given = submit.parameters("smoke", many, parts=runs)  # checks that they fit
    for number, share in enumerate(shares, 1):
        assert len(json.dumps({**given, "part": str(Part(number, runs))})) < ARGUMENT / 2
        assert len(json.dumps([student.label for student in share])) < ARGUMENT / 2  # the output of the step variants


def test_the_compiled_pipeline_does_not_grow_with_the_students_and_gives_resolve_the_part():
    spec, *_ = yaml.safe_load_all(compiled_text({}))
    tasks = {
        name: task for c in spec["components"].values() for name, task in c.get("dag", {}).get("tasks", {}).items()
    }
    assert tasks["resolve"]["inputs"]["parameters"]["part"] == {"componentInputParameter": "pipelinechannel--part"}
    loops = [task["parameterIterator"]["items"] for task in tasks.values() if "parameterIterator" in task]
    assert [list(items) for items in loops if "raw" not in items] == [["inputParameter"]]
