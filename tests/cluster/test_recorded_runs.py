"""The fake of Pipelines answers about runs as the true server did: a difference from a recording fails here."""

import json
import urllib.error
import urllib.request

import pytest
from fake_pipelines import valid
from replay import recorded


def ask(pipelines, path, method="GET", body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{pipelines.url}/apis/{path}", data, method=method)
    return json.loads(urllib.request.urlopen(request).read())


def started(pipelines):
    return ask(pipelines, "v2beta1/runs", "POST", {"display_name": "a", "experiment_id": "e"})["run_id"]


def shape(task):
    """All that a task says but its ids and times."""
    return (
        task["display_name"],
        task.get("state"),
        [past.get("state") for past in task["state_history"]],
        "child_tasks" in task and len(task["child_tasks"]),
        sorted(task),
    )


@pytest.mark.parametrize("name", ["succeeded", "failed", "cancelled", "skipped"])
def test_runs_are_told_as_the_true_server_told_them(pipelines, name):
    pipelines.life = true = valid(recorded(name), "V2beta1Run")
    run = started(pipelines)
    told = ask(pipelines, f"v2beta1/runs/{run}")
    assert told.keys() == true.keys() - {"pipeline_version_reference", "runtime_config"}  # this one was given none
    assert [told[key] for key in ("state", "state_history", "finished_at", "service_account")] == [
        true[key] for key in ("state", "state_history", "finished_at", "service_account")
    ]
    tasks = told["run_details"]["task_details"]
    assert list(map(shape, tasks)) == list(map(shape, true["run_details"]["task_details"]))
    assert {task["run_id"] for task in tasks} == {run}


def test_a_run_that_is_terminated_ends_as_the_recorded_one(pipelines):
    """Its state is FAILED, after CANCELING, and so are those of the tasks that were at work."""
    pipelines.life, pipelines.looks = recorded("cancelled"), 20
    true, run = pipelines.life, started(pipelines)
    for _ in range(15):
        before = ask(pipelines, f"v2beta1/runs/{run}")
    assert before["state"] == "RUNNING"
    assert ask(pipelines, f"v2beta1/runs/{run}:terminate", "POST") == {}
    during, after = (ask(pipelines, f"v2beta1/runs/{run}") for _ in range(2))
    assert during["state"] == "CANCELING"
    states = [[past["state"] for past in told["state_history"]] for told in (after, true)]
    assert states == [["PENDING", "RUNNING", "CANCELING", "FAILED"]] * 2
    for name in ("launch", "launch(0)", "condition-2", "exit-handler-1"):
        ends = [by_name(told)[name] for told in (after, true)]
        assert ends[0] == ends[1], name
    assert by_name(before)["launch"][0] == "RUNNING"


def by_name(told):
    tasks = told["run_details"]["task_details"]
    return {
        task["display_name"]: (task.get("state"), [past.get("state") for past in task["state_history"]])
        for task in tasks
    }


def test_a_log_is_under_the_old_address_only(pipelines):
    run = started(pipelines)
    pipelines.logs["w-1"] = "error: x\n"
    where = f"{pipelines.url}/apis/v1alpha1/runs/{run}/nodes/w-1/log"
    assert urllib.request.urlopen(where).read() == b"error: x\n"
    for address, code in (
        (where.replace("v1alpha1", "v1beta1"), 404),
        (where.replace("v1alpha1", "v2beta1"), 404),
        (where.replace("w-1", "w-2"), 500),
    ):
        with pytest.raises(urllib.error.HTTPError) as told:
            urllib.request.urlopen(address)
        assert told.value.code == code
