"""The report's tables as plain values for the template: results, conclusions, classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cliptea.data.catalogue import Catalogue
from cliptea.data.colours import class_colour
from cliptea.evaluation.results import METRICS, SCORE_NAMES, Metric
from cliptea.report import charts
from cliptea.report.bars import class_bars
from cliptea.report.conclusions import COMPARED, Comparison, PaperValue, compare, paper_values, reference_of
from cliptea.report.context import RunFacts
from cliptea.report.paper import own_dataset, paper
from cliptea.report.speed_plot import Measured, speed_plot
from cliptea.report.summaries import Spread, Summary
from cliptea.run import is_transductive

__all__ = [
    "NARROW", "Group", "class_tables", "conclusion_tables", "groups_of", "headline", "names_of",
    "result_tables", "speed_table",
]  # fmt: skip

PARTS = ("table3", "baselines")  # groups whose variants leave out a part of the method each
NOTHING = Spread(mean=None, sd=None)
NARROW = "\u202f"  # the space between thousands


@dataclass(frozen=True)
class Group:
    """The variants of one group on one evaluation set."""

    name: str
    dataset: str
    summaries: list[Summary]

    @property
    def caption(self) -> str:
        table = paper().tables.get(self.name)
        return table.caption if table else ""


def groups_of(summaries: Sequence[Summary]) -> list[Group]:
    """Groups in order of appearance."""
    found: dict[tuple[str, str], Group] = {}
    for summary in summaries:
        key = (summary.dataset, summary.group)
        found.setdefault(key, Group(summary.group, summary.dataset, [])).summaries.append(summary)
    return list(found.values())


def names_of(summaries: Sequence[Summary]) -> dict[str, tuple[str, list[str]]]:
    """label -> (first label that is the same trained model, the further labels of it).

    Equal variants of several groups are trained once: they have the same models, and are shown once.
    """
    first: dict[tuple[str, ...], str] = {}
    equal: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for summary in summaries:
        own = summary.label
        if own in names:
            continue
        names[own] = first.setdefault(summary.model_uris, own) if all(summary.model_uris) else own
        equal.setdefault(names[own], [])
        if names[own] != own:
            equal[names[own]].append(own)
    return {own: (name, equal[name]) for own, name in names.items()}


def result_tables(groups: Sequence[Group], facts: RunFacts) -> list[dict[str, Any]]:
    """The headline tables: a row for each variant, the highest mean of each score marked."""
    tables = []
    for group in groups:
        best = {m: max((s.scores[m].mean or 0.0 for s in group.summaries), default=0.0) for m in METRICS}
        rows = [
            {
                "variant": summary.variant,
                "about": facts.abouts.get(summary.label, ""),
                "gamma": summary.gamma,
                "scores": {metric: _cell(summary.scores[metric], best[metric]) for metric in SCORE_NAMES},
                "strip": charts.strip(summary.by_seed["hiou"], summary.scores["hiou"].mean),
            }
            for summary in group.summaries
        ]
        tables.append({"group": group, "rows": rows, "setting": _setting(group.summaries)})
    return tables


def speed_table(groups: Sequence[Group], facts: RunFacts) -> dict[str, Any]:
    """A row for each trained model, and a plot of hIoU over speed if candidates with several backbones were measured.

    The plot needs one device: speeds of different ones cannot be compared.
    """
    summaries = [summary for group in groups if group.dataset == facts.dataset for summary in group.summaries]
    names = names_of(summaries)
    shown = [summary for summary in summaries if names[summary.label][0] == summary.label]
    best = _best(groups, facts)
    candidates = [s for s in shown if {s.label, *names[s.label][1]} & {*facts.candidates}]
    plotted = [
        Measured(s.variant, s.images_per_second.mean, s.scores["hiou"].mean, s is best)
        for s in candidates
        if s.images_per_second.mean and s.scores["hiou"].mean is not None
    ]
    several = len({s.backbone for s in candidates if s.inference}) > 1 and len(_devices(candidates)) == 1
    return {
        "rows": [{"summary": s, "group": s.group, "variant": s.variant, "same": names[s.label][1]} for s in shown],
        "measured": _devices(shown),
        "backbones": len({s.backbone for s in shown}),
        "plot": speed_plot(plotted) if several and len(plotted) > 1 else None,
    }


def _best(groups: Sequence[Group], facts: RunFacts) -> Summary | None:
    """The variant with the highest mean hIoU on the main set among those that use the run's own method."""
    known = [
        summary
        for group in groups
        for summary in group.summaries
        if group.dataset == facts.dataset
        and summary.label in facts.candidates
        and summary.scores["hiou"].mean is not None
    ]
    return max(known, key=lambda summary: summary.scores["hiou"].mean or 0.0, default=None)


def headline(groups: Sequence[Group], facts: RunFacts) -> dict[str, Any] | None:
    """The model to ship, and what the evidence says about the parts of the method.

    An ablation is only trained for comparison, and is never shown as the model to ship.
    """
    best = _best(groups, facts)
    if best is None:
        return None
    compared = {
        c.variant: {"about": facts.abouts.get(f"{group.name}/{c.variant}", c.variant), "c": c}
        for group in groups
        if group.dataset == facts.dataset and group.name in PARTS
        if (reference := reference_of(group.summaries)) is not None and reference.variant == "full"
        for c in compare(group.summaries)
        if c.metric == "hiou"
    }
    hiou = best.by_seed["hiou"]
    seed = max(hiou, key=lambda seed: hiou[seed])
    return {
        "best": best,
        "about": facts.abouts.get(best.label, ""),
        "seed": seed,
        "of_seed": {metric: best.by_seed[metric].get(seed) for metric in SCORE_NAMES},
        "evidence": list(compared.values()),
    }


def conclusion_tables(groups: Sequence[Group], facts: RunFacts) -> list[dict[str, Any]]:
    """For each group its reference, a computed sentence, the comparisons, and the paper's values."""
    tables = []
    for group in groups:
        comparisons, reference = compare(group.summaries), reference_of(group.summaries)
        values, otherwise = paper_values(
            group.summaries, facts.dataset, facts.settings, facts.images, facts.clip_sha256
        )
        if reference is None or not (comparisons or values or otherwise):
            continue
        ends = [abs(end) for c in comparisons for end in (c.low, c.high, c.difference) if end is not None]
        means = [abs(c.difference) for c in comparisons if c.difference is not None]
        reach = min(max(ends, default=0.0), 1.5 * max(means, default=0.0)) or 0.01
        by_variant: dict[str, list[dict[str, Any]]] = {}
        for c in comparisons:
            by_variant.setdefault(c.variant, []).append({"c": c, "bar": _bar(c, reach)})
        tables.append(
            {
                "group": group,
                "reference": reference.variant,
                "chosen_by_mean": reference.variant != "full" and group.name not in paper().tables,
                "of_sweep": reference.trial is not None,
                "sentence": _sentence(comparisons, reference.variant) if comparisons else "",
                "variants": by_variant,
                "in_paper": any(c.paper for c in comparisons),
                "own_set": own_dataset(group.dataset) is not None,
                "paper_values": _by_variant(values),
                "otherwise": otherwise,
                "paper_setting": values[0].setting if values else "",
            }
        )
    return tables


def class_tables(groups: Sequence[Group], facts: RunFacts, pictured: Collection[str]) -> list[dict[str, Any]]:
    """IoU of each class and trained model, seen and unseen apart: a table, and bars of the `pictured` labels.

    The inductive and the transductive setting have tables of their own.
    """
    tables = []
    for dataset, transductive in dict.fromkeys((group.dataset, is_transductive(group.name)) for group in groups):
        mine = [one for one in groups if (one.dataset, is_transductive(one.name)) == (dataset, transductive)]
        summaries = [s for group in mine for s in group.summaries]
        names = names_of(summaries)
        shown = [s for s in summaries if names[s.label][0] == s.label]
        catalogue = facts.other_catalogues.get(dataset, facts.catalogue)
        parts = [("Unseen", catalogue.unseen), ("Seen", catalogue.seen)]
        tables.append(
            {
                "dataset": dataset,
                "transductive": transductive,
                "columns": [(s.group, s.variant, names[s.label][1]) for s in shown],
                "parts": [(title, [_class_row(name, shown, catalogue) for name in part]) for title, part in parts],
                "bars": [
                    {"group": s.group, "variant": s.variant, "same": names[s.label][1], "chart": _bars(s, catalogue)}
                    for s in shown
                    if s.label in pictured
                ],
            }
        )
    return tables


def _by_variant(values: Sequence[PaperValue]) -> dict[str, dict[Metric, PaperValue]]:
    found: dict[str, dict[Metric, PaperValue]] = {}
    for value in values:
        found.setdefault(value.variant, {})[value.metric] = value
    return found


def _class_row(name: str, shown: Sequence[Summary], catalogue: Catalogue) -> dict[str, Any]:
    cells = [summary.per_class.get(name, NOTHING) for summary in shown]
    return {"name": name, "colour": class_colour(catalogue.classes.index(name)), "cells": cells}


def _bars(summary: Summary, catalogue: Catalogue) -> Markup:
    parts = {"unseen": catalogue.unseen, "seen": catalogue.seen}
    found = {part: [(name, summary.per_class.get(name, NOTHING)) for name in names] for part, names in parts.items()}
    return class_bars(found, f"IoU of each class, {summary.label}")


def _cell(score: Spread, best: float) -> dict[str, Any]:
    return {"spread": score, "best": score.mean is not None and score.mean == best}


def _setting(summaries: Sequence[Summary]) -> str:
    iterations = sorted({n for s in summaries for n in s.iterations})
    seeds = sorted({seed for s in summaries for seed in s.seeds})
    plural = "seeds" if len(seeds) > 1 else "seed"
    parts = [
        ", ".join(f"{n:,}".replace(",", NARROW) for n in iterations) + " iterations",
        f"{plural} " + ", ".join(map(str, seeds)),
    ]
    return " · ".join(parts)


def _devices(summaries: Sequence[Summary]) -> list[str]:
    """On what and how the speed of the models was measured. Speeds of different machines cannot be compared."""
    measured = [s.inference for s in summaries if s.inference]
    return list(
        dict.fromkeys(f"{one.device} (threads: {one.threads}, {one.precision}, {one.size})" for one in measured)
    )


def _bar(c: Comparison, reach: float) -> Markup | None:
    if c.low is None or c.high is None or c.difference is None:
        return None
    return charts.interval_bar(c.low, c.difference, c.high, reach, c.verdict)


def _sentence(comparisons: Sequence[Comparison], reference: str) -> str:
    """A sentence about hIoU that follows from the intervals."""
    hiou = [c for c in comparisons if c.metric == COMPARED[0]]
    verdicts = {verdict: [c.variant for c in hiou if c.verdict == verdict] for verdict in ("lower", "higher", "tie")}
    parts = [f"{way} than {reference}: {', '.join(verdicts[way])}" for way in ("lower", "higher") if verdicts[way]]
    if verdicts["tie"]:
        parts.append(f"no difference from {reference} shown: {', '.join(verdicts['tie'])}")
    if open_ones := [c.variant for c in hiou if c.verdict not in verdicts]:
        parts.append(f"no conclusion, with fewer than two common seeds: {', '.join(open_ones)}")
    return "hIoU is " + "; ".join(parts) + "."
