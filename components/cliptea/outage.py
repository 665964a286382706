"""Waits for servers that are down, and reports it.

The object store, MLflow and the APIs of a cluster follow one rule. If a server refuses connections, cannot be reached
or answers 5xx, the request is repeated until the patience is over. Requests that it rejects (4xx) fail at once.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from typing import NamedTuple
from weakref import WeakSet

from cliptea import env, progress, watchdog
from cliptea.errors import one_line
from cliptea.messages import of_connection

__all__ = [
    "COMMAND_SECONDS", "STEP_SECONDS", "Outage", "Unreached", "forget", "patience", "present", "unreached", "untrusted",
]  # fmt: skip

STEP_SECONDS = 600.0  # default in a step, because servers restart within minutes
COMMAND_SECONDS = 10.0  # default in a command, because a user waits for it
AGAIN_SECONDS = 60.0  # between two reports of the same outage
FIRST_PAUSE = 0.5  # seconds between the first two tries; it doubles with each further one,
LONGEST_PAUSE = 10.0  # up to this

_lock = threading.Lock()
_present: WeakSet[Outage] = WeakSet()  # those that are waiting; one that nobody holds any more has ended
_told: dict[str, float] = {}  # by server: when its outage was last reported,
_news: dict[str, float] = {}  # and since when it has been away, until its return is reported


def patience() -> float:
    """Seconds to wait for a server: CLIPTEA_PATIENCE, or else ten minutes in a step and ten seconds elsewhere.

    0 means a single try.

    Raises:
        ConfigError: CLIPTEA_PATIENCE is not a number from 0 to `env.MOST`.
    """
    seconds = env.PATIENCE.number()
    if seconds is None:
        return STEP_SECONDS if env.STEP.is_set() else COMMAND_SECONDS
    return seconds


def present() -> bool:
    """Whether this process is currently waiting for a server."""
    return bool(_present)


def forget() -> None:
    """Forget which outages were reported, so that the next one is reported at once."""
    with _lock:
        _told.clear()
        _news.clear()


def untrusted(error: BaseException | None) -> bool:
    """Whether the error is about a certificate or the encryption, so that waiting does not help."""
    broken = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, broken)


class Unreached(NamedTuple):
    """Why a server could not be reached, in a few words, and what to do if waiting does not help, or ""."""

    why: str
    todo: str = ""


def unreached(error: Exception, trust: str) -> Unreached:
    """Why urllib3 could not reach a server.

    Args:
        trust: what to do if the server's certificate is not trusted, or the file of CA certificates cannot be read.
    """
    from urllib3.exceptions import NameResolutionError, NewConnectionError, ProxyError, SSLError, TimeoutError

    if isinstance(error, UnicodeError):
        return Unreached(
            "the address or the credentials contain characters that a request cannot contain", "correct them"
        )
    cause = getattr(error, "reason", None) or error  # a last try that failed wraps what happened
    if known := of_connection(cause):
        return Unreached(*known)
    inner = cause.args[0] if isinstance(cause, SSLError) else None  # Python's error
    if inner is not None and untrusted(inner):
        return Unreached(one_line(inner), trust)
    if isinstance(inner, OSError) and not isinstance(inner, ssl.SSLError):
        return Unreached(f"the file of CA certificates cannot be read: {inner.strerror}", trust)
    reasons = (
        (NameResolutionError, "unknown host name"),
        (NewConnectionError, "nothing is listening there"),
        (ProxyError, "the proxy does not connect"),
        (TimeoutError, "no answer in time"),
    )
    return Unreached(next((why for kind, why in reasons if isinstance(cause, kind)), type(cause).__name__))


class Outage:
    """The outage of a server for one request. It ends when the server answers or the patience is over.

    An outage is reported at once and then every minute, even if several requests in this process wait for the server.

    Args:
        server: for example "S3 at http://host:8333".
        seconds: time limit; defaults to `patience()`.
        since: when it begins, on the monotonic clock; defaults to the first failure. For a single request.
    """

    def __init__(self, server: str, seconds: float | None = None, since: float | None = None) -> None:
        self._server, self._seconds = server, patience() if seconds is None else seconds
        self._since = since
        self._tries = 0

    def wait(self, reason: str) -> bool:
        """Record a failed try, and pause before the next one. Returns False if the patience is over.

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
        if self._tries:  # one failure alone is no outage
            self._tell(reason, left)
        pause = min(FIRST_PAUSE * 2 ** min(self._tries, 10), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
        pause = min(pause, left)
        self._tries += 1
        watchdog.alive(pause)
        time.sleep(pause)
        return True

    def over(self) -> None:
        """Record that the server has answered."""
        if self._since is None and not _news:
            return
        self._leave()
        with _lock:
            since = _news.pop(self._server, None)
        if since is not None:
            progress.note(f"{self._server} answers again, after {progress.clock(time.monotonic() - since)}")

    def _tell(self, reason: str, left: float) -> None:
        now = time.monotonic()
        with _lock:
            if now - _told.get(self._server, -AGAIN_SECONDS) < AGAIN_SECONDS:
                return
            _told[self._server] = now
            since = _news.setdefault(self._server, self._since or now)
        progress.warn(
            f"{self._server} does not answer ({reason}); trying again for another {progress.clock(left)} "
            f"(no answer for {progress.clock(now - since)} so far)"
        )

    def _leave(self) -> None:
        with _lock:
            _present.discard(self)
        self._since, self._tries = None, 0
