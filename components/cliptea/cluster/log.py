"""Prints the log of a TrainJob's rank 0 line by line."""

from __future__ import annotations

import re
import time
from collections import deque
from datetime import datetime
from typing import Any

from cliptea import progress
from cliptea.cluster.job import NODE
from cliptea.cluster.kubernetes_api import Cluster, ClusterError
from cliptea.log_lines import print_line

__all__ = ["RankZero", "of_training", "place", "rank_zero"]

OVERLAP_SECONDS = 10  # requested again, because clocks differ
KEPT_LINES = 8  # for the text of an error
# A time (RFC 3339) as the kubelet writes it, in the time zone of its node, followed by the printed line.
STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[-+]\d\d:\d\d) (.*)")
INDEX = ("jobset.sigs.k8s.io/job-index", "batch.kubernetes.io/job-completion-index")  # labels


def of_training(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that train. A runtime may have other pods, for example to download data first."""
    label = "jobset.sigs.k8s.io/replicatedjob-name"
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(label, NODE) == NODE]


def place(pod: dict[str, Any]) -> tuple[str, ...]:
    """The place of a pod in its TrainJob. A replacement has another name but the same place."""
    return tuple(pod["metadata"].get("labels", {}).get(label, "0") for label in INDEX)


def rank_zero(pods: list[dict[str, Any]]) -> str | None:
    """The name of the newest pod with rank 0."""
    named = [pod["metadata"]["name"] for pod in of_training(pods) if place(pod) == ("0", "0")]
    return named[-1] if named else None


class RankZero:
    """Prints each line of rank 0 once, even if its pod is replaced."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pod: str | None = None
        self._last = (0.0, "")  # time of the newest line: whole seconds, and the digits of the fraction
        self._at_last: set[str] = set()  # the lines with exactly this time
        self._asked: float | None = None
        self._warned = False
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)

    def pass_on(self, pods: list[dict[str, Any]]) -> None:
        """Print lines that are new since the last call. The log only informs, so its errors cost one warning."""
        pod = rank_zero(pods)
        if pod is None:
            return
        if pod != self._pod:
            self._pod, self._asked = pod, None
            self._last, self._at_last = (0.0, ""), set()  # the clock of its node may be behind
        now = time.monotonic()
        since = 10**6 if self._asked is None else int(now - self._asked) + OVERLAP_SECONDS
        try:
            text = self._cluster.log(pod, NODE, since)
        except ClusterError as error:
            if not self._warned:
                progress.warn(f"the log of pod {pod} cannot be read now, and training goes on: {error}")
            self._warned = True
            return
        lines = [found for line in text.splitlines() if (found := STAMPED.fullmatch(line)) is not None]
        if lines:  # otherwise, nothing was printed, or the kubelet explains why there is no log
            self._asked = now
        for seconds, fraction, zone, words in map(re.Match.groups, lines):
            stamp = datetime.fromisoformat(seconds + zone).timestamp(), (fraction or "").ljust(9, "0")
            if self._new(stamp, words):
                self.tail.append(words)
                print_line(words)

    def _new(self, stamp: tuple[float, str], words: str) -> bool:
        if stamp < self._last or (stamp == self._last and words in self._at_last):
            return False
        if stamp > self._last:
            self._last, self._at_last = stamp, set()
        self._at_last.add(words)
        return True
