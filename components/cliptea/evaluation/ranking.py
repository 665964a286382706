"""Selects the best model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TypeVar

from cliptea.evaluation.results import ResultRow
from cliptea.run import Run, is_transductive

__all__ = ["best_of", "best_row", "candidates", "hiou"]

Row = TypeVar("Row", bound=ResultRow)


def candidates(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The result rows on the training data set of students that use the run's own method.

    Ablations are left out, because variants with another method are only trained for comparison.
    """
    own = {
        (member.group, member.variant, variant.seed)
        for variant in run.variants
        for member in variant.members
        if variant.config.method == run.config.method
    }
    return [row for row in rows if row.dataset == run.config.data.name and (row.group, row.variant, row.seed) in own]


def best_row(rows: Sequence[Row]) -> Row:
    """The best seed of the variant with the highest mean hIoU, so that one lucky seed does not choose the variant."""
    variants: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variants.setdefault((row.group, row.variant), []).append(row)
    best = max(variants.values(), key=lambda seeds: fmean(hiou(row) for row in seeds))
    return max(best, key=hiou)


def best_of(run: Run, rows: Sequence[Row]) -> Row:
    """The best row on the training data set: of the candidates, else of the inductive students, else of all."""
    own = [row for row in rows if row.dataset == run.config.data.name]
    inductive = [row for row in own if not is_transductive(row.group)]
    return best_row(candidates(run, own) or inductive or own)


def hiou(row: ResultRow) -> float:
    """The hIoU of a row, or 0 if it has none."""
    return row.hiou or 0.0
