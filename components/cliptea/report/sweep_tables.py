"""The report's tables of sweeps: each trial with its settings and its score on held-out images, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cliptea.report.summaries import Summary, has_lost
from cliptea.teacher.outputs import ClipTime

__all__ = ["sweep_tables"]

UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def sweep_tables(
    summaries: Sequence[Summary], dataset: str, clip_views: int | None = None, clip_time: ClipTime | None = None
) -> list[dict[str, Any]]:
    """A table for each sweep of each group.

    Args:
        dataset: the one trained on, whose val scores are shown beside.
        clip_views: the number of views whose tokens CLIP has computed for the run; None: not known.
        clip_time: how long CLIP took for those of these views that were measured.

    Returns:
        Tables with group, sweep, keys of the settings, the sentence about CLIP, and one row for each trial.
    """
    sweeps: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        if summary.trial is not None and summary.dataset == dataset:
            sweeps.setdefault((summary.group, summary.trial.sweep), []).append(summary)
    tables = []
    for (group, sweep), found in sweeps.items():
        trained = sum(len(trial.seeds) for trial in found)
        tables.append(
            {
                "group": group,
                "sweep": sweep,
                "keys": list(dict.fromkeys(key for trial in found if trial.trial for key in trial.trial.settings)),
                "clip": _saved(trained, clip_views, clip_time or ClipTime()),
                "rows": [
                    {"summary": trial, "settings": trial.trial.settings, "best": not has_lost(trial, found)}
                    for trial in sorted(found, key=lambda trial: trial.judged, reverse=True)
                    if trial.trial
                ],
            }
        )
    return tables


def _saved(students: int, views: int | None, time: ClipTime) -> str:
    """What stored tokens have saved, compared with students that each make the same tokens; "" if that is not known."""
    if views is None or students < 2:
        return ""
    seen = f"CLIP saw {views} views once for all {students} students of this sweep"
    if not time.views:
        return f"{seen}. If each student had made its own tokens, CLIP would have seen {(students - 1) * views} more."
    seconds = time.seconds_for(views)
    scaled = "" if time.views == views else f" (measured on {time.views} of them)"
    return (
        f"{seen}, in {_amount(seconds)} of one {' or '.join(time.devices)}{scaled}. "
        f"If each student had made its own tokens, CLIP would have taken {_amount((students - 1) * seconds)} more."
    )


def _amount(seconds: float) -> str:
    """A time with at least two digits, in the unit that suits it: "0.42 seconds", "75 minutes" or "2.5 hours"."""
    unit, size = next((unit, size) for unit, size in UNITS if seconds >= 1.99 * size or size == 1)
    number = seconds / size
    return f"{number:.0f} {unit}" if number >= 9.95 else f"{number:#.2g} {unit}"
