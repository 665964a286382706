"""`cliptea submit --wait`: shows a run on a cluster like a local run, and reports how it ended."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from cliptea.cluster.kubernetes_api import ClusterError
from cliptea.errors import ConfigError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import Who, tell
from cliptea.outage import Outage
from cliptea.progress import clock
from cliptea_pipeline import closing
from cliptea_pipeline.display import new_console, new_view
from cliptea_pipeline.endpoint import Away, Endpoint, EndpointError
from cliptea_pipeline.events import RunState
from cliptea_pipeline.failures import failures
from cliptea_pipeline.looks import CANCELLED, ENDED, Look, look, step_named, word
from cliptea_pipeline.news import News

if TYPE_CHECKING:
    from cliptea.tracking.state import End

__all__ = ["PACE", "Pace", "state_of", "wait"]

CODES: dict[End, int] = {  # by the end of the run
    "FINISHED": ExitCode.DONE,
    "FAILED": ExitCode.FAILED,
    "KILLED": ExitCode.CANCELLED,
}
NODE = re.compile(r"(\w+)(?:-driver)?\(\d+\)(?:\.executor\(\d+\))?$")  # the workflow's, of a step or its driver


class Pace(NamedTuple):
    """Intervals and time limits, in seconds."""

    poll: float = 10.0  # between two requests for the state of the run
    refresh: float = 0.2  # between two updates of the bars
    outage: float = 900.0  # how long the server may be down; the run continues without us
    quiet: float = 120.0  # without any change, until waiting pods are reported
    again: float = 600.0  # until they are reported again
    address: float = 60.0  # between two requests for the run's address in MLflow


PACE = Pace()


def wait(endpoint: Endpoint, run_id: str, store: str = "", pace: Pace | None = None) -> int:
    """Follow a run until it ends, show its steps, and report why it failed.

    Args:
        store: URI of the store that its steps write to, or "" if it is not known.
        pace: intervals and time limits; defaults to `PACE`.

    Returns:
        Exit code: 0 if it succeeded or was skipped, 1 if it failed, 3 if it was cancelled, 130 after Ctrl-C.

    Raises:
        ConfigError: the run does not exist.
        EndpointError: the server denies the request, is down for too long, or the run was deleted meanwhile.
    """
    watch, who = _Watch(endpoint, run_id, store, pace or PACE), Who(run=run_id)
    try:
        end = watch.follow()
    except KeyboardInterrupt:
        watch.close()
        tell("info", f"stopped watching; the run continues, and `cliptea cancel {run_id}` cancels it", who)
        return ExitCode.INTERRUPTED
    finally:
        watch.close()
    if end.error:
        tell("error", end.error, who)
    if end.state == "FAILED":
        for failure in failures(endpoint, run_id, end, watch.news.errors):
            tell("error", f"{failure.who}: {failure.text}", who)
            if failure.more:
                tell("info", f"  read its log with: {failure.more}", who)
    # The step finish closes the run in MLflow.
    finished = any(task.step == "finish" and task.state == "SUCCEEDED" for task in end.tasks)
    if end.state in ("FAILED", CANCELLED) and (closing.is_named() or not finished):
        told = closing.close(run_id, end.state, "a step failed" if end.state == "FAILED" else word(end.state))
        if told:
            tell("info", told, who)
    return CODES[ENDED[end.state]]


def state_of(code: int) -> str:
    """The state of a run that `wait` returned this code for: FINISHED, FAILED, KILLED, or RUNNING after Ctrl-C."""
    return next((state for state, known in CODES.items() if known == code), "RUNNING")


class _Watch:
    """The display of a run, updated after every request for its state."""

    def __init__(self, endpoint: Endpoint, run_id: str, store: str, pace: Pace) -> None:
        self._endpoint, self._run_id, self._pace = endpoint, run_id, pace
        self._run_state = RunState(run=run_id)
        self._view = new_view(new_console(), self._run_state)
        self._say = self._view.say
        try:
            self.news = News(run_id, store, self._say)
        except BaseException:
            self._view.close()
            raise
        self._open = True
        self._start = self._moved = time.monotonic()
        self._state = ""
        self._tasks: list[tuple[str, str]] = []
        self._asked = self._told = -float("inf")  # last request for MLflow's address, last report of waiting pods
        self._addressed = False

    def follow(self) -> Look:
        """Show the run until it ends, and return its last state."""
        outage = Outage(f"Kubeflow Pipelines at {self._endpoint.url}", self._pace.outage)
        while True:
            try:
                seen = look(self._endpoint, self._run_id)
            except Away as error:
                if not outage.wait(error.reason):
                    raise
                continue
            except ConfigError:
                if not self._state:
                    raise
                raise EndpointError(  # a ConfigError would say that nothing was started
                    f"the run {self._run_id} was deleted in Pipelines before it had ended", todo="submit it again"
                ) from None
            outage.over()
            self._show(seen)
            if seen.state in ENDED:
                return seen
            self._rest()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._view.close()

    def _show(self, seen: Look) -> None:
        now = time.monotonic()
        events = self.news.read(seen)
        for event in events:
            self._view.show(event)
        tasks = [(task.id, task.state) for task in seen.tasks]
        if events or (seen.state, tasks) != (self._state, self._tasks):
            self._moved, self._told = now, -float("inf")
        self._tell_address(now, seen)
        if seen.state != self._state:
            self._say(f"{word(seen.state)} after {clock(now - self._start)}")
        self._state, self._tasks = seen.state, tasks
        quiet = now - self._moved
        if quiet >= self._pace.quiet and now - self._told >= self._pace.again and not self.news.at_work(seen):
            self._told = now
            self._say(f"nothing has changed for {clock(quiet)}, and no step is running")
            for line in _waiting(self._endpoint, self._run_id):
                self._say(line)

    def _tell_address(self, now: float, seen: Look) -> None:
        """Show the address of the run in MLflow once it exists there."""
        tracked = self._run_state.published.get("tracking_run")
        known = tracked or any(task.step == "resolve" and task.state == "SUCCEEDED" for task in seen.tasks)
        if self._addressed or not known or now - self._asked < self._pace.address:
            return
        self._asked = now
        if found := closing.address(self._run_id):
            self._say(f"mlflow {found}")
            self._addressed = True
        elif tracked and not closing.is_named():
            self._say(f"mlflow run {tracked}; set MLFLOW_TRACKING_URI to see its address")
            self._addressed = True

    def _rest(self) -> None:
        until = time.monotonic() + self._pace.poll
        while (left := until - time.monotonic()) > 0:
            self._view.tick()
            time.sleep(min(left, self._pace.refresh))


def _waiting(endpoint: Endpoint, run_id: str) -> list[str]:
    """A line for each waiting pod of a run with the reason, or else the command that shows them."""
    namespace = endpoint.steps_namespace or "kubeflow"
    try:
        cluster = endpoint.cluster()
        namespace = cluster.namespace
        waiting = [pod for pod in cluster.step_pods(run_id) if pod.waits]
    except ClusterError:
        waiting = []
    found = [f"  {_step_of(pod.node)}pod {pod.name}: {pod.waits}" for pod in waiting]
    return found or [f"  to see what is waiting: kubectl -n {namespace} get pods -l pipeline/runid={run_id}"]


def _step_of(node: str) -> str:
    found = NODE.search(node)
    step = step_named(found[1]) if found else ""
    return f"{step}, " if step else ""
