"""Which version of a registered model is the champion: a function of what the registry holds, and of nothing else.

MLflow's registry has no compare-and-swap, so that of two runs that promote at once the second could overwrite the
first with a decision that knew nothing of it. Here no order of writes matters: versions have numbers that the registry
gives out one after another, each carries its score from its first moment, and the champion is what deciding over them
in that order leaves. Whoever reads the same versions comes to the same champion; see `cliptea.tracking.registry`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["Choice", "Decision", "History", "Score", "decide", "replay"]


class Decision(NamedTuple):
    promoted: bool
    reason: str


class Score(NamedTuple):
    """What a version is judged by: hIoU, the digest of evaluation set and protocol, by how much to beat a champion."""

    hiou: float | None  # 0-1; None: nobody has measured it
    evaluation: str
    margin: float


class Choice(NamedTuple):
    """Somebody made a version the champion when `after` was the last version: a rollback, or the alias set by hand."""

    after: int
    moment: int  # milliseconds; orders choices after the same version
    version: int


class History(NamedTuple):
    """Champions so far, the last one in office, and the decision about every version."""

    champions: list[int]
    decisions: dict[int, Decision]


def decide(model: Score, champion: Score | None) -> Decision:
    """Whether a model takes the champion's place: when it is better by more than its margin, on the same evaluation."""
    new, margin = model.hiou, model.margin
    if new is None:
        return Decision(False, "it has no hIoU")
    if champion is None:
        return Decision(True, f"first champion, hIoU {new:.4f}")
    old = champion.hiou
    if old is None:
        return Decision(False, f"hIoU {new:.4f}, but the champion has none, so the two cannot be compared")
    if champion.evaluation != model.evaluation:
        return Decision(
            False,
            f"hIoU {new:.4f}, but the champion's {old:.4f} was measured on another evaluation set, "
            "so the two cannot be compared",
        )
    if new > old + margin:
        return Decision(True, f"hIoU {new:.4f} beats the champion's {old:.4f} by more than {margin:g}")
    return Decision(False, f"hIoU {new:.4f} does not beat the champion's {old:.4f} by more than {margin:g}")


def replay(scores: Mapping[int, Score], choices: Iterable[Choice]) -> History:
    """Decide over all versions in the order of their numbers, with the choices where they were made.

    A choice of an earlier champion takes those after it out of office; they are not considered again.
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
