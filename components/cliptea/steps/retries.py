"""Retries of steps after temporary failures.

A default installation of Pipelines only replaces lost pods and never reruns failed code. So temporary failures are
retried here, as set by `retries` in the placement (CLIPTEA_RETRIES).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cliptea import env, progress, watchdog
from cliptea.errors import ClipteaError, ConfigError, ServerAway, described

__all__ = ["Retries", "persistently"]

# Kinds of errors by name, since importing the packages that speak to servers takes seconds.
PASSING = {
    "builtins.ConnectionError",
    "builtins.TimeoutError",
    "requests.ConnectionError",
    "requests.Timeout",
    "urllib3.HTTPError",
}
REFUSING = {"requests.SSLError", "ssl.SSLError", "urllib3.SSLError"}  # waiting does not make a certificate valid

Made = TypeVar("Made")
Seconds = Annotated[int, Field(ge=0, le=86400)]


class Retries(BaseModel):
    """How often a step retries temporary failures: the key `retries` of a placement."""

    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=0, le=100)] = 2
    wait_seconds: Seconds = 30  # before the first retry
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    longest_wait_seconds: Seconds = 600


def persistently(work: Callable[[], Made]) -> Made:
    """Call `work` until it succeeds, fails permanently, or has been retried often enough."""
    retries = _retries()
    for tried in range(retries.count):
        try:
            return work()
        except Exception as error:
            if not may_pass(error):
                raise
            seconds = min(retries.wait_seconds * retries.factor**tried, retries.longest_wait_seconds)
            left = retries.count - tried
            tries = f"{left} {'retry' if left == 1 else 'retries'} left"
            progress.warn(f"{described(error)}; trying again in {progress.clock(seconds)}, {tries}")
            watchdog.alive(seconds)
            time.sleep(seconds)
    return work()


def may_pass(error: BaseException) -> bool:
    """Whether a retry may succeed soon, for example after a broken connection.

    Servers that are down are not retried here, because `cliptea.outage` has already waited for them.
    """
    if isinstance(error, ClipteaError):
        return error.temporary and not isinstance(error, ServerAway)
    kinds = {
        f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        for one in (error, getattr(error, "reason", None))  # urllib3 wraps what happened at the last try
        for kind in type(one).__mro__
    }
    return bool(kinds & PASSING) and not kinds & REFUSING


def _retries() -> Retries:
    given = env.RETRIES.get()
    if not given or env.in_local_run():
        return Retries(count=0)
    try:
        return Retries.model_validate_json(given)
    except ValidationError:
        raise ConfigError(f"{env.RETRIES.name}={given!r} cannot be read", env.RETRIES.expected) from None
