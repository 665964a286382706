"""`answers.py WHAT [NAME]`: what a script wants to know of the JSON that it passes on stdin."""

import json
import sys


def main(what: str, name: str = "") -> str:
    """The id that is asked for, or "" if there is none yet.

    Args:
        what: `schedule`: the id of the schedule with this name in the output of `cliptea schedule --list --json`.
            `ended-run`: the id of a run of the schedule with this id that has ended, in Pipelines' list of runs.
            `skipped`: the id of the run that Pipelines' answer is about, if it has succeeded without its steps.
    """
    told = json.load(sys.stdin)
    if what == "schedule":
        return next(schedule["id"] for schedule in told["schedules"] if schedule["name"] == name)
    if what == "ended-run":
        runs = [run for run in told.get("runs", []) if run.get("recurring_run_id") == name]
        return next((run["run_id"] for run in runs if run.get("state") in ("SUCCEEDED", "FAILED")), "")
    tasks = {task["display_name"]: task.get("state") for task in told["run_details"]["task_details"]}
    if told["state"] != "SUCCEEDED" or "SKIPPED" not in tasks.values() or "split" in tasks:
        sys.exit(f"error: the run {told['run_id']} ended as {told['state']} and was not skipped: {tasks}")
    return told["run_id"]


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
