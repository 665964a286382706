"""Why a run on a cluster failed: each failed step with its error and the command that shows its log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cliptea.log_lines import as_text
from cliptea_pipeline.endpoint import Endpoint, EndpointError
from cliptea_pipeline.looks import Look, Task, log_address, read_log
from cliptea_pipeline.placement import Steps
from cliptea_pipeline.server_address import token_in_shell

__all__ = ["Failure", "failures"]

STEP = "|".join(Steps.model_fields)
TOLD = re.compile(rf"(?m)^(?P<step>{STEP})(?: (?P<label>[^:\n]+))?: (?:started|failed after [^:\n]+: (?P<text>.*))$")
ERROR = re.compile(r"(?m)^error: (.*)$")
SILENT = "it ended without an error message; it may have been killed or run out of memory"
GONE = "its log is gone, or it never ran; look for its pod with `kubectl -n {} get pods -l pipeline/runid={}`"


class Failure(NamedTuple):
    """A step that failed."""

    who: str  # step and variant
    text: str  # its one error line
    more: str  # the command that shows its log, or "" if the log is gone


def failures(endpoint: Endpoint, run_id: str, look: Look, told: dict[tuple[str, str], str]) -> list[Failure]:
    """The failed steps of a run that has ended.

    Args:
        told: the errors that the steps have written to the store.
    """
    found = {_who(*key): Failure(_who(*key), text, "") for key, text in told.items()}
    for failure in _from_logs(endpoint, run_id, look.tasks):
        known = found.get(failure.who)
        found[failure.who] = failure if known is None else known._replace(more=failure.more)
    named = {who.split()[0] for who in found}
    for step in dict.fromkeys(task.step for task in look.tasks if task.step and task.state == "FAILED"):
        if step not in named:
            found[step] = Failure(step, GONE.format(endpoint.steps_namespace or "kubeflow", run_id), "")
    return list(found.values())


def _from_logs(endpoint: Endpoint, run_id: str, tasks: list[Task]) -> Iterator[Failure]:
    for task in tasks:
        if task.state != "FAILED" or not task.nodes:
            continue
        driver = re.fullmatch(r"(\w+)-driver", task.name)
        if driver is None and task.name != "executor":
            continue
        node = task.nodes[-1]  # the last try
        try:
            log = read_log(endpoint, run_id, node)
        except EndpointError:
            continue
        who, text = _read(log)
        if driver is not None:
            who, text = driver[1], "Pipelines could not start it; see the log of its driver"
        if who:
            shown = token_in_shell(endpoint.url)
            header = f'-H "Authorization: Bearer {shown}" ' if shown else ""
            yield Failure(who, text, f"curl {header}{log_address(endpoint, run_id, node)}")


def _read(log: str) -> tuple[str, str]:
    """The step and variant in a pod's log, and its last error line."""
    log = "\n".join(map(as_text, log.split("\n")))
    events = list(TOLD.finditer(log))
    if not events:
        return "", ""
    errors = ERROR.findall(log) or [event["text"] for event in events if event["text"]]
    return _who(events[-1]["step"], events[-1]["label"] or ""), errors[-1] if errors else SILENT


def _who(step: str, label: str) -> str:
    return f"{step} {label}".rstrip()
