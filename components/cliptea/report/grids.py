"""The report's pictures and charts as plain values for the template, with a column per image and a row per variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cliptea.data.catalogue import IGNORE
from cliptea.data.colours import class_colour, hex_colour
from cliptea.evaluation.results import SCORE_NAMES, Metric
from cliptea.report import charts, figures
from cliptea.report.confusion_figure import confusion_figure
from cliptea.report.context import ReportContext
from cliptea.report.summaries import Summary, summarise_gammas

__all__ = [
    "attention_grid", "class_legend", "confusions", "gamma_charts", "loss_charts", "prediction_grid", "region_grid",
]  # fmt: skip

Names = Mapping[str, tuple[str, list[str]]]  # as tables.names_of
SWEPT: tuple[Metric, ...] = ("miou_seen", "miou_unseen", "hiou")


def class_legend(context: ReportContext) -> list[dict[str, Any]]:
    """Colour and name of the classes, the unseen ones marked."""
    catalogue = context.facts.catalogue
    return [
        {"name": name, "colour": class_colour(index), "unseen": name in catalogue.unseen}
        for index, name in enumerate(catalogue.classes)
    ]


def prediction_grid(context: ReportContext, names: Names, summaries: Sequence[Summary]) -> dict[str, Any] | None:
    """Photos, ground truth, and every trained model's label maps, with its mean hIoU."""
    pictures = context.predictions
    hiou = {s.label: s.scores["hiou"].mean for s in summaries if s.dataset == context.facts.dataset}
    rows = [
        _row("image", [figures.photo(p.image) for p in pictures]),
        _row("ground truth", [figures.label_map(p.truth) for p in pictures], is_map=True),
    ]
    for own in _shown([p.predictions for p in pictures], names):
        cells = [figures.label_map(p.predictions[own]) if own in p.predictions else None for p in pictures]
        rows.append(_row(own, cells, names, score=hiou.get(own), is_map=True))
    return _grid(pictures, rows)


def attention_grid(context: ReportContext, names: Names) -> dict[str, Any] | None:
    """Photos overlaid with the attention of each variant's CLS query, all on one scale."""
    pictures = context.attention
    if not pictures:
        return None
    octaves = figures.heat_range(weights for p in pictures for weights in p.maps.values())
    rows = [_row("image", [figures.photo(p.image) for p in pictures])]
    for own in _shown([p.maps for p in pictures], names):
        cells = [figures.heat_overlay(p.image, p.maps[own], octaves) if own in p.maps else None for p in pictures]
        rows.append(_row(own, cells, names))
    ends = {"low": 2.0**-octaves, "high": 2.0**octaves}
    colours = {"low": hex_colour(figures.LOW), "high": hex_colour(figures.HIGH)}
    return {**(_grid(pictures, rows) or {}), "ends": ends, "colours": colours}


def region_grid(context: ReportContext) -> dict[str, Any] | None:
    """Training photos, the labels that the student sees, and the pseudo regions in unlabelled parts."""
    pictures = context.regions
    rows = [
        _row("image", [figures.photo(p.image) for p in pictures]),
        _row("training labels", [figures.label_map(p.labels) for p in pictures], is_map=True),
        _row("pseudo regions", [figures.region_map(p.image, p.labels, p.regions) for p in pictures]),
    ]
    notes = [_region_note(p.labels, p.regions) for p in pictures]
    return _grid(pictures, rows, notes)


def gamma_charts(context: ReportContext, names: Names, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Seen, unseen and harmonic IoU over gamma for each trained model; the gamma in use is marked."""
    used = {(s.group, s.variant, s.dataset): s.gamma for s in summaries}
    found = []
    for (group, variant, dataset), points in summarise_gammas(context.sweep).items():
        own = f"{group}/{variant}"
        if names.get(own, (own, []))[0] != own:
            continue
        lines = {
            SCORE_NAMES[metric]: (
                i,
                [(g, mean) for g, scores in points.items() if (mean := scores[metric].mean) is not None],
            )
            for i, metric in enumerate(SWEPT)
        }
        gammas = used.get((group, variant, dataset), (context.facts.gamma,))
        chart = charts.line_chart(lines, axis="percent", title=f"{own} over gamma", x_label="gamma", marker=gammas[0])
        found.append({**_name(own, names), "dataset": dataset, "chart": chart})
    return found


def confusions(context: ReportContext, names: Names) -> list[dict[str, Any]]:
    """Each trained model's confusion matrix on the data set itself."""
    classes = context.facts.catalogue.classes
    return [
        {**_name(own, names), "uri": figures.data_uri(confusion_figure(context.confusions[own], classes))}
        for own in _shown([context.confusions], names)
    ]


def loss_charts(context: ReportContext, names: Names) -> dict[str, Any]:
    """Every loss term over the iterations for each trained model, with one colour per term and one shared axis."""
    terms = list(dict.fromkeys(term for curves in context.losses.values() for term in curves))
    values = [value for curves in context.losses.values() for curve in curves.values() for _, value in curve]
    shown = [value for value in values if 0 < value < math.inf]
    ends = (min(shown), max(shown)) if shown else ()
    found = []
    for own in _shown([context.losses], names):
        lines = {term: (terms.index(term), curve) for term, curve in context.losses[own].items()}
        chart = charts.line_chart(lines, axis="log", title=f"losses of {own}", x_label="iteration", beside=ends)
        found.append({**_name(own, names), "chart": chart})
    return {"terms": terms, "charts": found}


def _shown(pictures: Sequence[Mapping[str, Any]], names: Names) -> list[str]:
    """Labels in order of appearance, without those that show the same trained model as an earlier one."""
    present = list(dict.fromkeys(own for picture in pictures for own in picture))
    first: dict[str, str] = {}
    for own in present:
        first.setdefault(names.get(own, (own, []))[0], own)
    return list(first.values())


def _name(own: str, names: Names) -> dict[str, Any]:
    group, _, variant = own.rpartition("/")
    name, others = names.get(own, (own, []))
    return {"group": group, "variant": variant, "same": [other for other in [name, *others] if other != own]}


def _row(
    own: str,
    cells: Sequence[bytes | None],
    names: Names | None = None,
    score: float | None = None,
    is_map: bool = False,
) -> dict[str, Any]:
    title = {"group": "", "variant": own, "same": []} if names is None else _name(own, names)
    uris = [None if cell is None else figures.data_uri(cell) for cell in cells]
    return {**title, "cells": uris, "score": score, "is_map": is_map}


def _grid(pictures: Sequence[Any], rows: list[dict[str, Any]], notes: Sequence[str] = ()) -> dict[str, Any] | None:
    if not pictures:
        return None
    small = max(max(p.image.shape[:2]) for p in pictures) <= figures.SMALL_EDGE
    return {"ids": [p.id for p in pictures], "rows": rows, "notes": list(notes), "small": small}


def _region_note(labels: np.ndarray, regions: np.ndarray) -> str:
    unlabelled = np.asarray(labels) == IGNORE
    found = np.unique(np.asarray(regions)[np.asarray(regions) != IGNORE])
    plural = "region" if len(found) == 1 else "regions"
    return f"{len(found)} {plural}, {100 * unlabelled.mean():.0f} % unlabelled"
