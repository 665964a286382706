"""Selects the best model of a run.

Among the trials of a sweep, the score on held-out training images chooses. The val images only compare its best trial
with other variants, so the number of trials does not make the scores on them too good.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TypeVar

from cliptea.evaluation.results import ResultRow
from cliptea.nested import flatten
from cliptea.run import Member, Run, Variant, is_transductive

__all__ = ["best_of", "best_row", "candidates", "held_out", "hiou", "judge"]

Row = TypeVar("Row", bound=ResultRow)


def candidates(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The result rows on the training data set of students that use the run's own method.

    Ablations are left out, because variants with another method are only trained for comparison. Of a sweep, only the
    best trial is a candidate, also if the sweep changes the method.
    """
    own = {
        (member.group, member.variant, variant.seed)
        for variant in run.variants
        for member in variant.members
        if _uses_own_method(run, variant, member)
    }
    kept = _without_lost(run, rows)
    return [row for row in kept if row.dataset == run.config.data.name and (row.group, row.variant, row.seed) in own]


def judge(rows: Sequence[Row]) -> dict[tuple[str, str], list[list[Row]]]:
    """The trials of each sweep, by the names of group and sweep.

    Returns:
        For each trial the rows of its seeds. The one with the highest mean score on held-out images comes first.
    """
    sweeps: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.trial is not None:
            sweeps.setdefault((row.group, row.trial.sweep), {}).setdefault(row.variant, []).append(row)
    return {sweep: sorted(trials.values(), key=held_out, reverse=True) for sweep, trials in sweeps.items()}


def held_out(seeds: Sequence[ResultRow]) -> float:
    """The mean score on held-out images that chooses among trials. A seed without one counts as 0."""
    return fmean(row.heldout_miou_seen or 0.0 for row in seeds)


def _without_lost(run: Run, rows: Sequence[Row]) -> list[Row]:
    """The rows, except those of students that are trials but not the best trial of any of their sweeps.

    They are left out under all of their names, for otherwise the val images would choose among trials after all.
    """
    best = {(trials[0][0].group, trials[0][0].variant) for trials in judge(rows).values()}
    lost = {
        (member.group, member.variant)
        for variant in run.variants
        if any(member.trial for member in variant.members)
        and not best & {(member.group, member.variant) for member in variant.members}
        for member in variant.members
    }
    return [row for row in rows if (row.group, row.variant) not in lost]


def _uses_own_method(run: Run, variant: Variant, member: Member) -> bool:
    """Whether a student uses the run's method, apart from the settings of its trial."""
    tried = tuple(f"{key}." for key in member.trial.settings) if member.trial else ()
    mine, own = (flatten(config.method.model_dump()) for config in (variant.config, run.config))
    changed = [key for key in mine.keys() | own.keys() if mine.get(key) != own.get(key)]
    return all(f"method.{key}.".startswith(tried) for key in changed)  # a trial may set a mapping such as method.losses


def best_row(rows: Sequence[Row]) -> Row:
    """The best seed of the variant with the highest mean hIoU, so that one lucky seed does not choose the variant."""
    variants: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variants.setdefault((row.group, row.variant), []).append(row)
    best = max(variants.values(), key=lambda seeds: fmean(hiou(row) for row in seeds))
    return max(best, key=hiou)


def best_of(run: Run, rows: Sequence[Row]) -> Row:
    """The best row on the training data set: of the candidates, else of the inductive students, else of all."""
    own = [row for row in _without_lost(run, rows) if row.dataset == run.config.data.name]
    inductive = [row for row in own if not is_transductive(row.group)]
    return best_row(candidates(run, own) or inductive or own)


def hiou(row: ResultRow) -> float:
    """The hIoU of a row, or 0 if it has none."""
    return row.hiou or 0.0
