"""Servers that are away for a while: how long they are waited for, and what is said meanwhile.

One rule for the object store, MLflow and the APIs of a cluster. A server that refuses connections, cannot be reached
or answers 5xx may come back: it is asked again until the patience is over. What it refuses (4xx) is refused at once.
"""

from __future__ import annotations

import os
import random
import threading
import time

from cliptea import progress

__all__ = ["COMMAND_SECONDS", "PATIENCE", "STEP_SECONDS", "Outage", "patience", "present"]

PATIENCE = "CLIPTEA_PATIENCE"  # seconds that a server may be away
STEP_SECONDS = 600.0  # default in a pipeline's step: servers restart within minutes
COMMAND_SECONDS = 10.0  # default of a command, which somebody waits for
AGAIN_SECONDS = 60.0  # between two words about the same outage
LONGEST_PAUSE = 10.0  # seconds between two tries

_lock = threading.Lock()
_present: set[Outage] = set()


def patience() -> float:
    """Seconds that a server may be away: CLIPTEA_PATIENCE, else ten minutes in a step and ten seconds elsewhere."""
    given = os.environ.get(PATIENCE, "")
    try:
        return max(0.0, float(given))
    except ValueError:
        return STEP_SECONDS if progress.STEP in os.environ else COMMAND_SECONDS


def present() -> bool:
    """Whether a server is being waited for in this process now."""
    return bool(_present)


class Outage:
    """The absence of one server: told at once and again each minute, and ended by its answer or by our patience.

    Args:
        server: as in "S3 at http://host:8333".
        seconds: that it may be away; default: `patience()`.
    """

    def __init__(self, server: str, seconds: float | None = None) -> None:
        self._server, self._seconds = server, patience() if seconds is None else seconds
        self._since: float | None = None
        self._told = 0.0
        self._tries = 0

    def wait(self, reason: str) -> bool:
        """Take note of a try that failed, and pause before the next one; False when the patience is over.

        Args:
            reason: why the try failed, in a few words.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = now
        left = self._since + self._seconds - now
        if left <= 0:
            self._leave()
            return False
        with _lock:
            _present.add(self)
        if self._tries == 1 or now - self._told >= AGAIN_SECONDS:  # one failure alone is no outage
            self._told = now
            progress.warn(
                f"{self._server} does not answer ({reason}); trying again for {progress.clock(left)}, "
                f"away for {progress.clock(now - self._since)}"
            )
        pause = min(0.5 * 2**self._tries, LONGEST_PAUSE) * random.uniform(0.75, 1.25)
        self._tries += 1
        time.sleep(min(pause, left))
        return True

    def over(self) -> None:
        """Take note that the server has answered."""
        if self._since is not None and self._told:
            progress.note(f"{self._server} answers again, after {progress.clock(time.monotonic() - self._since)}")
        self._leave()

    def _leave(self) -> None:
        with _lock:
            _present.discard(self)
        self._since, self._told, self._tries = None, 0.0, 0
