"""Which of a run's models is the best."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TypeVar

from cliptea.evaluation.results import ResultRow
from cliptea.run import Run

__all__ = ["best_row", "candidates", "hiou"]

Row = TypeVar("Row", bound=ResultRow)


def candidates(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The result rows of students trained by the run's own method, on the data set itself.

    Ablations are none: a variant with another method than the run's is there to be compared, not used.
    """
    own = {
        (member.group, member.variant, variant.seed)
        for variant in run.variants
        for member in variant.members
        if variant.config.method == run.config.method
    }
    return [row for row in rows if row.dataset == run.config.data.dataset and (row.group, row.variant, row.seed) in own]


def best_row(rows: Sequence[Row]) -> Row:
    """The best seed of the variant with the highest mean hIoU, so that one lucky seed does not choose the variant."""
    variants: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variants.setdefault((row.group, row.variant), []).append(row)
    best = max(variants.values(), key=lambda seeds: fmean(hiou(row) for row in seeds))
    return max(best, key=hiou)


def hiou(row: ResultRow) -> float:
    """A row's hIoU; 0 where there is none."""
    return row.hiou or 0.0
