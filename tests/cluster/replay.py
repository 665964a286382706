"""Recorded runs of Kubeflow Pipelines, played at any moment between their start and their end."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "recorded"
NEVER = "0001-01-01T00:00:00Z"  # the end of what has not ended
OPEN = ("PENDING", "RUNNING")


def recorded(name: str) -> dict[str, Any]:
    """The answer about the run that succeeded, failed, was cancelled or was skipped, at its end."""
    run = json.loads((RECORDED / f"run_{name}.json").read_text())
    for task in run["run_details"]["task_details"]:
        task["run_id"] = run["run_id"]
    return run


def moment(run: dict[str, Any], share: float) -> dict[str, Any]:
    """What the server had answered when `share` of the run's time was over."""
    if share >= 1:
        return run
    begin, end = (datetime.fromisoformat(run[key]) for key in ("created_at", "finished_at"))
    now = (begin + (end - begin) * share).strftime("%Y-%m-%dT%H:%M:%SZ")
    tasks = [_task(task, now) for task in run["run_details"]["task_details"] if task["start_time"] <= now]
    history = [past for past in run["state_history"] if past["update_time"] <= now]
    return run | {
        "finished_at": NEVER,
        "state": history[-1]["state"],
        "state_history": history,
        "run_details": {"task_details": [task for task in tasks if task["state_history"]]},
    }


def _task(task: dict[str, Any], now: str) -> dict[str, Any]:
    history = [past for past in task["state_history"] if past["update_time"] <= now]
    seen = {key: value for key, value in task.items() if key != "state"} | {"state_history": history}
    if task["end_time"] > now:
        seen["end_time"] = NEVER
    if history and "state" in history[-1]:
        seen["state"] = history[-1]["state"]
    return seen


def cancelled(run: dict[str, Any], over: bool) -> dict[str, Any]:
    """What the server answers of a run that is asked to end: CANCELING, and FAILED when its pods are gone."""
    now = max([run["created_at"], *(task["start_time"] for task in run["run_details"]["task_details"])])
    history = [*run["state_history"], {"update_time": now, "state": "CANCELING"}]
    if not over:
        return run | {"state": "CANCELING", "state_history": history}
    tasks = [
        task | {"state": "FAILED", "state_history": [*task["state_history"], {"update_time": now, "state": "FAILED"}]}
        if task.get("state") in OPEN
        else task
        for task in run["run_details"]["task_details"]
    ]
    return run | {
        "state": "FAILED",
        "finished_at": now,
        "state_history": [*history, {"update_time": now, "state": "FAILED"}],
        "run_details": {"task_details": tasks},
    }
