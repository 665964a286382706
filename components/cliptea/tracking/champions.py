"""Decides which version of a registered model is the champion. This only depends on the contents of the registry.

MLflow's registry has no compare-and-swap, so if two runs promote at the same time, the second could overwrite a
decision of the first that it has not seen. To avoid this, the order of writes does not matter here. The registry
numbers versions consecutively, each version has its score from the start, and the champion is the result of deciding
over all versions in the order of their numbers. All readers of the same versions get the same champion. See
`cliptea.tracking.registry`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Choice", "Decision", "History", "Score", "decide", "replay"]


class Decision(NamedTuple):
    promoted: bool
    reason: str


class Score(NamedTuple):
    """The score of a version: hIoU, digest of evaluation set and protocol, and the margin to beat a champion."""

    hiou: float | None  # 0-1; None: not measured
    evaluation: str
    margin: float


class Choice(NamedTuple):
    """A user made a version the champion when `after` was the last version, with a rollback or by setting the alias."""

    after: int
    moment: int  # milliseconds; orders choices after the same version
    version: int


class History(NamedTuple):
    """All champions so far, of which the last one is the current one, and the decision about every version."""

    champions: list[int]
    decisions: dict[int, Decision]


def decide(model: Score, champion: Score | None) -> Decision:
    """Whether a model replaces the champion: it must be better by more than its margin, on the same evaluation."""
    new, margin = _measured(model.hiou), model.margin
    if new is None:
        return Decision(False, "it has no hIoU")
    if champion is None:
        return Decision(True, f"first champion, hIoU {_percent(new)}")
    old = _measured(champion.hiou)
    if old is None:
        return Decision(False, f"hIoU {_percent(new)}, but the champion has none, so the two cannot be compared")
    if champion.evaluation != model.evaluation:
        return Decision(
            False,
            f"hIoU {_percent(new)}, but the champion's {_percent(old)} was measured on another evaluation set, "
            "so the two cannot be compared",
        )
    return _compared(new, old, margin)


def _compared(new: float, old: float, margin: float) -> Decision:
    if new == old:
        return Decision(False, f"hIoU {_percent(new)} equals the champion's, so the champion stays")
    digits = next((digits for digits in (2, 4, 6) if _percent(new, digits) != _percent(old, digits)), 15)
    beats = new > old + margin
    verb = "beats" if beats else "does not beat"
    reason = f"hIoU {_percent(new, digits)} {verb} the champion's {_percent(old, digits)}"
    return Decision(beats, reason + (f" by more than {100 * margin:g} points" if margin else ""))


def _percent(hiou: float, digits: int = 2) -> str:
    return f"{100 * hiou:.{digits}f} %"


def _measured(hiou: float | None) -> float | None:
    """The hIoU, or None if it is not a finite number."""
    return hiou if hiou is not None and math.isfinite(hiou) else None


def replay(scores: Mapping[int, Score], choices: Iterable[Choice]) -> History:
    """Decide over all versions in the order of their numbers, and apply each choice at its time.

    If an earlier champion is chosen, the champions after it are discarded and not considered again.
    """
    champions: list[int] = []
    decisions: dict[int, Decision] = {}
    waiting = deque(sorted(choice for choice in choices if choice.version in scores))
    for version in sorted(scores):
        while waiting and waiting[0].after < version:
            _put_in_office(champions, waiting.popleft().version)
        decisions[version] = decide(scores[version], scores[champions[-1]] if champions else None)
        if decisions[version].promoted:
            champions.append(version)
    for choice in waiting:
        _put_in_office(champions, choice.version)
    return History(champions, decisions)


def _put_in_office(champions: list[int], version: int) -> None:
    if version in champions:
        del champions[champions.index(version) + 1 :]
    else:
        champions.append(version)
