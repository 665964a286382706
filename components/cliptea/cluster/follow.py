"""Follows a TrainJob: creates or adopts it, watches it, and deletes it if the step is cancelled."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cliptea import progress, watchdog
from cliptea.cluster.job import QUEUE
from cliptea.cluster.job_settings import JobSettings
from cliptea.cluster.kubernetes_api import SERVER, Cluster, ClusterError, QuotaFull, Unreachable
from cliptea.cluster.log import RankZero, of_training, place
from cliptea.cluster.reasons import (
    AGAIN,
    CAUSES,
    Trouble,
    failed,
    finished,
    gated,
    hopeless,
    suspended,
    timed_out,
    troubles,
)
from cliptea.outage import Outage, patience

__all__ = ["Cancelled", "Pace", "train"]


class Cancelled(SystemExit):
    """The step was stopped by a signal."""


class Pace:
    """Polling intervals and time limits in seconds."""

    poll = 5.0  # between two requests for the TrainJob
    hopeless = 300.0  # time to fix a wrong image name or a missing secret
    gone = 300.0  # time until a deleted TrainJob and its pods must be gone, in addition to their grace period
    unnoticed = 60.0  # time until Kueue must have noticed a TrainJob
    again = 600.0  # between two reports about a queue
    recent = 120.0  # a problem that was seen this recently may be the cause of a failure


def train(cluster: Cluster, job: dict[str, Any], settings: JobSettings, pace: type[Pace] = Pace) -> None:
    """Run a TrainJob until it succeeds. If an earlier attempt of this step left a TrainJob, it is adopted.

    Args:
        job: the TrainJob to create.
        settings: how often it is created again after pods were lost, and how long its pods may take to start.

    Raises:
        ClusterError: the TrainJob failed, or did not start.
        Unreachable: the Kubernetes API was not available for longer than `cliptea.outage.patience()`.
        Cancelled: the step received SIGTERM or SIGINT. The TrainJob is deleted.
    """
    name = job["metadata"]["name"]
    with _cancelled_by_signal(cluster, name):
        for restart in range(settings.restarts + 1):
            follower = _Follower(cluster, name, settings, pace)
            follower.begin(job, adopt=restart == 0)
            reason = follower.watch()
            if reason is None:
                return
            if not follower.lost or restart == settings.restarts:
                tail = follower.log.tail
                raise ClusterError(f"{reason}; its last line: {tail[-1]}" if tail else reason)
            progress.warn(f"{reason}; restarting from its last checkpoint")


class _Follower:
    """Follows a TrainJob from its creation or adoption to its end."""

    def __init__(self, cluster: Cluster, name: str, settings: JobSettings, pace: type[Pace]) -> None:
        self.cluster, self.name, self.settings, self.pace = cluster, name, settings, pace
        # Seconds since the start, without the time in which the API was not available. All times below use this clock.
        self.clock, self.looked, self.answered = 0.0, time.monotonic(), True
        self.start = 0.0  # when it began to wait until all of its pods run, not counting the time in a queue
        self.log = RankZero(cluster)
        self.seen: dict[tuple[str, str], Trouble] = {}
        self.told: dict[tuple[str, str], tuple[str, float]] = {}  # the last report of each problem, and when it was
        self.since: dict[tuple[str, str], float] = {}  # when each current problem began
        self.last: dict[tuple[str, str], float] = {}  # when each problem was last seen
        self.running: dict[tuple[str, ...], str] = {}  # training pods that were running when last seen, by place
        self.started = False  # whether all its pods have run at the same time; before that, some pods only hold nodes
        self.lost = False  # whether the cluster caused the failure
        self.outage = Outage(SERVER)

    def begin(self, job: dict[str, Any], adopt: bool) -> None:
        """Create the TrainJob, unless one with its name is running or done and may be adopted."""
        leaves: float | None = None  # when the deletion of the old one began
        while True:
            with self._patient():
                present = self.cluster.job(self.name)
                if present is None and self._created(job):
                    progress.note(f"TrainJob {self.name} created in namespace {self.cluster.namespace}")
                    return
                if present is not None and "deletionTimestamp" not in present["metadata"]:
                    if adopt and failed(present) is None:
                        progress.note(f"TrainJob {self.name} already exists: following it")
                        return
                    self.cluster.delete(self.name)
                if present is not None:
                    leaves = self.clock if leaves is None else leaves
                    self.start = self.clock  # the new one has all of its time to start
                    self._look_at_old(self.clock - leaves - self.pace.gone - self.settings.grace_seconds)
            time.sleep(self.pace.poll)

    def _look_at_old(self, late: float) -> None:
        """Say why a deleted TrainJob, which is `late` by this many seconds, is still there. Give up in the end."""
        if late <= 0:
            return
        held = self._held()
        if self.cluster.job(self.name) is None:  # it has gone meanwhile
            return
        self._tell([held])
        if late > self.settings.pending_seconds:
            raise ClusterError(held.text)

    def _held(self) -> Trouble:
        """What keeps a deleted TrainJob from going away. The pods of a node that is lost stay until somebody acts."""
        left, namespace = self.cluster.pods(self.name), f"kubectl -n {self.cluster.namespace}"
        text = f"the old TrainJob {self.name} is still not deleted"
        if not left:
            todo = f"`{namespace} get trainjob {self.name} -o yaml` shows the finalizers that it waits for"
            return Trouble("other", self.name, f"{text}, and none of its pods is left: {todo}")
        pod, node = left[0]["metadata"]["name"], left[0].get("spec", {}).get("nodeName", "")
        where = f" on node {node}" if node else ""
        todo = f"run `{namespace} delete pod {pod} --force`"
        if node:
            todo += f" or `kubectl taint node {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute`"
        return Trouble("other", pod, f"{text}: its pod {pod}{where} does not end; if the node is lost, {todo}")

    def _created(self, job: dict[str, Any]) -> bool:
        try:
            return self.cluster.create(job)
        except QuotaFull as error:
            if QUEUE in self.settings.labels:
                self.start = self.clock  # suspended TrainJobs fill the quota, and wait for any length of time
            elif self.clock - self.start > self.settings.pending_seconds:
                raise
            self._tell([Trouble("quota", self.name, f"{error}; waiting for room")])
            return False

    def watch(self) -> str | None:
        """Follow the TrainJob to its end. Returns None, or why it failed."""
        begin = self.clock
        while True:
            with self._patient():
                job = self.cluster.job(self.name)
                if job is None:
                    return f"the TrainJob {self.name} was deleted by someone else"
                pods = self.cluster.pods(self.name)
                at_work, workload = 0, None
                if suspended(job):
                    self._wait_anew()
                    workload = self.cluster.workload(job)
                else:
                    at_work = self._count(pods)
                late = self.clock - begin > self.pace.unnoticed
                now = troubles(job, pods, self.cluster.warnings(self.name), workload, late)
                self._tell(now)
                self.log.pass_on(pods)
                if finished(job):
                    return None
                reason = failed(job)
                if reason is not None:
                    return self._why(reason, timed_out(job), self._gone(pods))
                if suspended(job) or any(map(gated, pods)):
                    self.start = self.clock  # a queue decides when it starts, and it has all of its time then
                else:
                    self._give_up(now, at_work, self.clock - self.start)
            time.sleep(self.pace.poll)

    def _wait_anew(self) -> None:
        """Reset the state for a suspended TrainJob, which loses its pods."""
        self.running.clear()
        self.last.clear()
        self.started = False

    def _count(self, pods: list[dict[str, Any]]) -> int:
        """The number of pods that are running or done."""
        phases = [(pod, pod.get("status", {}).get("phase")) for pod in of_training(pods)]
        for pod, phase in phases:
            if phase == "Running":
                self.running[place(pod)] = pod["metadata"]["name"]
            else:
                self.running.pop(place(pod), None)
        at_work = sum(phase in ("Running", "Succeeded") for _, phase in phases)
        self.started = self.started or at_work >= self.settings.nodes
        return at_work

    def _gone(self, pods: list[dict[str, Any]]) -> list[Trouble]:
        """Pods that were running and disappeared without a status, for example because their node was lost."""
        left = {pod["metadata"]["name"]: "deletionTimestamp" in pod["metadata"] for pod in pods}
        gone = [name for name in self.running.values() if left.get(name, True)]
        text = "it disappeared while it was running: it was deleted, or its node was lost"
        return [Trouble("gone", name, text) for name in sorted(gone, key=left.__contains__)]  # deleted ones last

    def _tell(self, found: list[Trouble]) -> None:
        present = {trouble[:2]: trouble for trouble in found}
        for key, trouble in present.items():
            if key not in self.since or self._changed(trouble):  # a problem that comes back is reported again
                progress.warn(f"{trouble.where}: {trouble.text}")
                self.told[key] = trouble.text, self.clock
        self.seen |= present
        self.since = {key: self.since.get(key, self.clock) for key in present}
        self.last |= dict.fromkeys(present, self.clock)

    def _changed(self, trouble: Trouble) -> bool:
        """Whether to report again what a queue says. Its numbers change whenever anything in the cluster does."""
        text, when = self.told[trouble[:2]]
        if trouble.kind != "suspended" or self.clock - when < self.pace.again:
            return False
        return re.sub(r"\d", "", trouble.text) != re.sub(r"\d", "", text)

    def _give_up(self, now: list[Trouble], at_work: int, seconds: float) -> None:
        """Delete a TrainJob that cannot start, so that it does not occupy nodes."""
        if self.started:
            return
        ages = ((t, min(seconds, self.clock - self.since[t[:2]])) for t in now if hopeless(t))
        long = [trouble for trouble, age in ages if age > self.pace.hopeless]
        if long or seconds > self.settings.pending_seconds:
            self.cluster.delete(self.name)
            why = (long or now or [Trouble("other", self.name, f"{at_work} of {self.settings.nodes} pods run")])[0]
            raise ClusterError(f"training did not start within {progress.clock(seconds)}: {why.where}: {why.text}")

    def _why(self, reason: str, late: bool, gone: list[Trouble]) -> str:
        """The most likely cause of a failure. The status of pods takes precedence over the controller's message."""
        since = self.clock - self.pace.recent
        recent = [t for key, t in self.seen.items() if key in self.last and self.last[key] >= since]
        causes = [] if late else [t for t in [*recent, *gone] if t.kind in CAUSES]
        cause = min(causes, key=lambda t: CAUSES.index(t.kind), default=None)
        self.lost = cause is not None and cause.kind in AGAIN
        text = f"the TrainJob {self.name} failed: {f'{cause.where}: {cause.text}' if cause else reason}"
        waits = [t for t in recent if t.kind in ("node", "quota")]
        if waits and not self.started:  # the running pods were waiting for the others
            text += f"; not all of its pods ran: {waits[0].where}: {waits[0].text}"
        return text

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Wait for an API that is not available. An interrupted block is repeated at the next poll."""
        now = time.monotonic()
        if self.answered:
            self.clock += now - self.looked
        self.looked, self.answered = now, False
        try:
            yield
        except Unreachable as error:
            if not self.outage.wait(str(error)):
                raise Unreachable(f"{error}, for {progress.clock(patience())}") from None
        else:
            watchdog.alive()  # the pods have watchdogs of their own
            self.answered = True
            self.outage.over()


@contextmanager
def _cancelled_by_signal(cluster: Cluster, name: str) -> Iterator[None]:
    """Stop the block on SIGTERM and SIGINT, and delete the TrainJob."""

    def stop(number: int, frame: object) -> None:
        raise Cancelled(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except Cancelled:
        try:
            cluster.delete(name)
            progress.note(f"cancelled: TrainJob {name} deleted")
        except ClusterError as error:
            progress.warn(f"cancelled, but TrainJob {name} could not be deleted ({error}); delete it yourself")
        raise
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
