"""The report's tables of sweeps: each trial with its settings and its score on held-out images, best first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cliptea.report.summaries import Summary, has_lost

__all__ = ["sweep_tables"]


def sweep_tables(summaries: Sequence[Summary], dataset: str, clip_views: int | None = None) -> list[dict[str, Any]]:
    """A table for each sweep of each group.

    Args:
        dataset: the one trained on, whose val scores are shown beside.
        clip_views: the number of views whose tokens CLIP has computed for the run; None: not known.

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
                "clip": _saved(trained, clip_views),
                "rows": [
                    {"summary": trial, "settings": trial.trial.settings, "best": not has_lost(trial, found)}
                    for trial in sorted(found, key=lambda trial: trial.judged, reverse=True)
                    if trial.trial
                ],
            }
        )
    return tables


def _saved(students: int, clip_views: int | None) -> str:
    """What stored tokens have saved in a sentence; "" if that is not known."""
    if clip_views is None or students < 2:
        return ""
    return (
        f"CLIP saw {clip_views} views once for all {students} students of this sweep. "
        f"For each student anew, it would have seen {(students - 1) * clip_views} more."
    )
