"""The report's conclusions, computed from the spread of the scores over seeds.

A variant is compared with the reference of its group seed by seed, so that effects of a seed on both cancel out. The
interval is a two-sided 95 % Student interval, not corrected for multiple comparisons. For evaluation sets that the
paper does not use, only the signs of differences are compared with the paper.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from cliptea.evaluation.results import METRICS, Metric
from cliptea.report.paper import Sign, own_dataset, paper, paper_row, paper_sign, protocol_differences, table_of
from cliptea.report.summaries import Summary, has_lost

__all__ = [
    "COMPARED", "Agreement", "Comparison", "PaperValue", "Verdict", "compare", "paper_values", "reference_of",
    "t_interval",
]  # fmt: skip

COMPARED: tuple[Metric, ...] = ("hiou", "miou_unseen")
CONFIDENCE = 0.95

Verdict = Literal["lower", "higher", "tie", "one seed: no conclusion", "no common seed"]
Agreement = Literal["same sign", "opposite sign", "tie", "not decided"]


class Comparison(NamedTuple):
    """A variant against the reference of its group, on one evaluation set and one score."""

    dataset: str
    metric: Metric
    variant: str
    reference: str
    seeds: tuple[int, ...]  # in which both have the score
    difference: float | None  # variant - reference, mean over seeds, fraction
    low: float | None  # ends of the 95 % interval
    high: float | None
    verdict: Verdict
    paper: Sign | None  # sign of the difference in the paper; None if the paper has no such pair
    agreement: Agreement | None


class PaperValue(NamedTuple):
    """One of our scores together with the paper's, on one of the paper's data sets."""

    variant: str
    metric: Metric
    ours: float
    printed: float
    setting: str

    @property
    def difference(self) -> float:
        return self.ours - self.printed


def t_interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and ends of the two-sided 95 % Student interval, from the standard deviation (n - 1) of n >= 2 values."""
    n, mean = len(differences), statistics.fmean(differences)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(differences) / n**0.5
    return mean, mean - half, mean + half


def reference_of(group: Sequence[Summary]) -> Summary | None:
    """The row that the other rows of a group are compared with.

    This is the full method if the group has it (`full`, or its name in the paper's table), and otherwise the row with
    the highest mean hIoU, as for backbones. Only the best trial of a sweep can be the reference. None if no row has an
    hIoU.
    """
    by_name = {summary.variant: summary for summary in group}
    table = paper().tables.get(group[0].group)
    for name in (table.reference if table else None, "full"):
        if name in by_name:
            return by_name[name]
    known = [(summary.scores["hiou"].mean, -i) for i, summary in enumerate(group) if not has_lost(summary, group)]
    best = max(((mean, i) for mean, i in known if mean is not None), default=None)
    return group[-best[1]] if best else None


def compare(summaries: Sequence[Summary]) -> list[Comparison]:
    """Compare every variant with the reference of its group, on each evaluation set, for hIoU and unseen mIoU."""
    groups: dict[tuple[str, str], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault((summary.group, summary.dataset), []).append(summary)
    return [
        _comparison(summary, reference, metric)
        for group in groups.values()
        if (reference := reference_of(group)) is not None
        for summary in group
        if summary is not reference
        for metric in COMPARED
    ]


def paper_values(
    summaries: Sequence[Summary],
    trained_on: str,
    settings: Mapping[str, Any],
    images: Mapping[str, Mapping[str, int]],
    clip_sha256: str = "",
) -> tuple[list[PaperValue], list[str]]:
    """Our means and the paper's values, only for the data sets and the protocol of the paper.

    Args:
        trained_on: name of the data set that the students were trained on.
        settings: the run's resolved config, nested.
        images: data set -> part -> number of images, as for `protocol_differences`.
        clip_sha256: of the file with CLIP's weights; "" if it is not known.

    Returns:
        The values, and the differences in protocol that rule out the others.
    """
    found: list[PaperValue] = []
    otherwise: list[str] = []
    for summary in summaries:
        table = table_of(summary.group, summary.dataset, trained_on)
        row = paper_row(table, summary.variant, summary.dataset)
        if table is None or row is None or own_dataset(trained_on) is None:
            continue
        differences = protocol_differences(table, summary, trained_on, settings, clip_sha256, images)
        if differences:
            otherwise += differences
            continue
        for metric in METRICS:
            ours, printed = summary.scores[metric].mean, getattr(row, metric)
            if ours is not None and printed is not None:
                found.append(PaperValue(summary.variant, metric, ours, printed, paper().tables[table].setting))
    return found, list(dict.fromkeys(otherwise))


def _comparison(summary: Summary, reference: Summary, metric: Metric) -> Comparison:
    ours, theirs = summary.by_seed[metric], reference.by_seed[metric]
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    sign = paper_sign(summary.group, summary.variant, reference.variant, metric)
    verdict: Verdict = "no common seed" if not seeds else "one seed: no conclusion"
    difference = low = high = None
    if len(seeds) > 1:
        difference, low, high = t_interval([ours[seed] - theirs[seed] for seed in seeds])
        verdict = "lower" if high < 0 else "higher" if low > 0 else "tie"
    return Comparison(
        dataset=summary.dataset,
        metric=metric,
        variant=summary.variant,
        reference=reference.variant,
        seeds=seeds,
        difference=difference,
        low=low,
        high=high,
        verdict=verdict,
        paper=sign,
        agreement=_agreement(verdict, sign),
    )


def _agreement(verdict: Verdict, sign: Sign | None) -> Agreement | None:
    """Compare the signs. A tie in the paper has no sign to agree with, and an undecided difference has none either."""
    if sign is None:
        return None
    if verdict not in ("lower", "higher", "tie"):
        return "not decided"
    if sign == "tie":
        return "tie"
    if verdict == "tie":
        return "not decided"
    return "same sign" if verdict == sign else "opposite sign"
