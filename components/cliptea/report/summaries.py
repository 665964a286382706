"""Means and standard deviations over seeds, which the report shows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cliptea.errors import DataError
from cliptea.evaluation.ranking import held_out
from cliptea.evaluation.results import METRICS, Inference, Metric, ResultRow, Scores
from cliptea.sweeps import Trial

__all__ = ["GammaScores", "Spread", "Summary", "has_lost", "spread", "summarise", "summarise_gammas"]

# A row, and by gamma the scores of the same logits at other values. They are never used to choose a model.
GammaScores = tuple[ResultRow, Mapping[str, Scores]]


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; `sd` is None with fewer than two values."""

    mean: float | None
    sd: float | None


class Summary(NamedTuple):
    """A variant on an evaluation set, over its seeds."""

    group: str
    variant: str
    backbone: str
    dataset: str
    seeds: tuple[int, ...]
    iterations: tuple[int, ...]
    gamma: tuple[float, ...]
    scores: dict[Metric, Spread]
    by_seed: dict[Metric, dict[int, float]]
    per_class: dict[str, Spread]
    training_images_per_second: Spread
    latency_ms: Spread
    images_per_second: Spread
    inference: Inference | None  # of the first seed that was measured; other seeds on other devices do not count
    model_uris: tuple[str, ...]
    held_out: Spread  # mIoU of the seen classes on held-out training images
    trial: Trial | None
    judged: float  # the score that chooses among trials

    @property
    def label(self) -> str:
        """As in its rows."""
        return f"{self.group}/{self.variant}"


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sample standard deviation (n - 1) of the values that are not None."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return Spread(mean, statistics.stdev(known) if len(known) > 1 else None)


def summarise(rows: Sequence[ResultRow]) -> list[Summary]:
    """Means and sample standard deviations over seeds, in the rows' order of first appearance.

    Raises:
        DataError: two rows share group, variant, evaluation set and seed, which would understate the spread.
    """
    parts: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    met: set[tuple[str, str, str, int]] = set()
    for row in rows:
        identity = (row.group, row.variant, row.dataset, row.seed)
        if identity in met:
            raise DataError(
                f"there are two results for {row.group}/{row.variant} on {row.dataset} with seed {row.seed}",
                "one row for each variant, evaluation set and seed",
                "remove one of them",
            )
        met.add(identity)
        parts.setdefault((row.group, row.variant, row.backbone, row.dataset), []).append(row)
    return [_summary(sorted(part, key=lambda row: row.seed)) for part in parts.values()]


def has_lost(summary: Summary, group: Sequence[Summary]) -> bool:
    """Whether another trial of the same sweep is the best one, as `ranking.judge` finds it.

    Args:
        group: all variants of the group of `summary`, on one evaluation set.
    """
    if summary.trial is None:
        return False
    sweep = [other for other in group if other.trial and other.trial.sweep == summary.trial.sweep]
    return summary is not max(sweep, key=lambda other: other.judged)


def summarise_gammas(rows: Sequence[GammaScores]) -> dict[tuple[str, str, str], dict[float, dict[Metric, Spread]]]:
    """(group, variant, dataset) -> gamma -> metric -> spread over seeds, gammas ascending."""
    values: dict[tuple[str, str, str], dict[float, list[Scores]]] = {}
    for row, by_gamma in rows:
        points = values.setdefault((row.group, row.variant, row.dataset), {})
        for gamma, scores in by_gamma.items():
            points.setdefault(float(gamma), []).append(scores)
    return {
        key: {
            gamma: {metric: spread(getattr(scores, metric) for scores in points[gamma]) for metric in METRICS}
            for gamma in sorted(points)
        }
        for key, points in values.items()
    }


def _summary(rows: Sequence[ResultRow]) -> Summary:
    first = rows[0]
    measured = [row.inference for row in rows if row.inference]
    comparable = [one for one in measured if one.conditions == measured[0].conditions]
    classes = dict.fromkeys(name for row in rows for name in row.per_class)
    by_seed: dict[Metric, dict[int, float]] = {
        metric: {row.seed: value for row in rows if (value := getattr(row, metric)) is not None} for metric in METRICS
    }
    return Summary(
        group=first.group,
        variant=first.variant,
        backbone=first.backbone,
        dataset=first.dataset,
        seeds=tuple(row.seed for row in rows),
        iterations=tuple(sorted({row.iterations for row in rows})),
        gamma=tuple(sorted({row.gamma for row in rows})),
        scores={metric: spread(by_seed[metric].values()) for metric in METRICS},
        by_seed=by_seed,
        per_class={name: spread(row.per_class.get(name) for row in rows) for name in classes},
        training_images_per_second=spread(row.training_images_per_second for row in rows),
        latency_ms=spread(one.latency_ms for one in comparable),
        images_per_second=spread(one.images_per_second for one in comparable),
        inference=comparable[0] if comparable else None,
        model_uris=tuple(row.model_uri for row in rows),
        held_out=spread(row.heldout_miou_seen for row in rows),
        trial=first.trial,
        judged=held_out(rows),
    )
