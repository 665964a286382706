"""The log of a TrainJob's rank 0, passed on line by line."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from cliptea.cluster.api import Cluster

__all__ = ["RankZero", "of_training", "rank_zero"]

CONTAINER = "node"
OVERLAP_SECONDS = 10  # asked for twice, since clocks differ
KEPT_LINES = 8  # for an error's text
INDEX = {"jobset.sigs.k8s.io/job-index": "0", "batch.kubernetes.io/job-completion-index": "0"}


def of_training(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that train; a runtime may have others, which fetch data before."""
    label = "jobset.sigs.k8s.io/replicatedjob-name"
    return [pod for pod in pods if pod["metadata"].get("labels", {}).get(label, CONTAINER) == CONTAINER]


def rank_zero(pods: list[dict[str, Any]]) -> str | None:
    """The name of the newest pod that holds rank 0."""
    named = [
        pod["metadata"]["name"]
        for pod in of_training(pods)
        if all(pod["metadata"].get("labels", {}).get(key, value) == value for key, value in INDEX.items())
    ]
    return named[-1] if named else None


class RankZero:
    """Prints what rank 0 prints, each line once, also when its pod is replaced by another."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._pod: str | None = None
        self._last: tuple[str, str] = ("", "")  # time of the newest line: whole seconds, fraction
        self._at_last: set[str] = set()  # the lines of that very time
        self._asked: float | None = None
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)

    def pass_on(self, pods: list[dict[str, Any]]) -> None:
        """Print what is new since the last call."""
        pod = rank_zero(pods)
        if pod is None:
            return
        if pod != self._pod:
            self._pod, self._asked = pod, None
        now = time.monotonic()
        since = 10**6 if self._asked is None else int(now - self._asked) + OVERLAP_SECONDS
        text = self._cluster.log(pod, CONTAINER, since)
        if text:
            self._asked = now
        for line in text.splitlines():
            stamp, _, words = line.partition(" ")
            if self._new(_sortable(stamp), words):
                self.tail.append(words)
                print(words, file=sys.stderr, flush=True)

    def _new(self, stamp: tuple[str, str], words: str) -> bool:
        if stamp < self._last or (stamp == self._last and words in self._at_last):
            return False
        if stamp > self._last:
            self._last, self._at_last = stamp, set()
        self._at_last.add(words)
        return True


def _sortable(stamp: str) -> tuple[str, str]:
    """A time of RFC 3339, whose fraction may have lost its last zeros, in a form that sorts."""
    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return seconds, fraction.ljust(9, "0")
