"""The paper's Tables 1-5 as data (`paper.yaml`), read on first use."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from cliptea.evaluation.results import METRICS, Metric
from cliptea.parse import parse_yaml

__all__ = [
    "Paper", "PaperRow", "PaperTable", "Sign", "own_dataset", "paper", "paper_row", "paper_sign",
    "protocol_differences", "table_of",
]  # fmt: skip

Sign = Literal["lower", "higher", "tie"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PaperRow(_Strict):
    """A row as printed, but in fractions 0-1; None where the paper reports nothing."""

    variant: str
    dataset: str
    pAcc: float | None
    miou_seen: float | None
    miou_unseen: float | None
    hiou: float | None
    gamma: float | None = None  # where it differs from the table's


class PaperTable(_Strict):
    """A table with its rows, the setting of its measurements, and the row that the others are compared with."""

    caption: str
    setting: str
    iterations: dict[str, int]  # the paper's data set that is trained on -> iterations
    rows: list[PaperRow]
    dataset: str | None = None
    reference: str | None = None
    notes: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _spread_out(cls, data: dict) -> dict:
        rows = []
        for row in data["rows"]:
            percent = {metric: row[metric] for metric in METRICS}
            fractions = {metric: None if value is None else value / 100 for metric, value in percent.items()}
            rows.append({"dataset": data.get("dataset"), **row, **fractions})
        return {**data, "rows": rows}


class Paper(_Strict):
    source: str
    tie_margin: float  # percentage points
    datasets: dict[str, list[str]]  # the paper's data set -> names it has in results
    protocol: dict[str, Any]  # setting -> value
    tables: dict[str, PaperTable]


@functools.cache
def paper() -> Paper:
    """The reference numbers, read once."""
    text = resources.files("cliptea.report").joinpath("paper.yaml").read_text(encoding="utf-8")
    return Paper.model_validate(parse_yaml(text, "paper.yaml"))


def own_dataset(name: str) -> str | None:
    """The paper's name of an evaluation set, or None where the paper did not use it."""
    return next((own for own, names in paper().datasets.items() if name in names), None)


def table_of(group: str, dataset: str, trained_on: str) -> str | None:
    """The table that a group reproduces: the one of its name, or for backbones Table 1, or Table 2 across data sets."""
    if group in ("backbones", "table1", "table2"):
        return "table1" if own_dataset(dataset) == own_dataset(trained_on) else "table2"
    return group if group in paper().tables else None


def paper_row(table: str | None, variant: str, dataset: str | None = None) -> PaperRow | None:
    """The row of a variant, or None where the paper has none.

    Args:
        table: "table1" to "table5"; anything else finds nothing.
        variant: cliptea's name of the row.
        dataset: name of the evaluation set, needed in Tables 1 and 2; None takes the table's only one.
    """
    chosen = paper().tables.get(table or "")
    if chosen is None:
        return None
    wanted = own_dataset(dataset) if dataset is not None else chosen.dataset
    return next((row for row in chosen.rows if row.variant == variant and row.dataset == wanted), None)


def protocol_differences(
    table: str, trained_on: str, iterations: tuple[int, ...], settings: Mapping[str, Any]
) -> list[str]:
    """How a run's protocol differs from that of the paper's table, in words; empty if the values are comparable.

    Args:
        table: "table1" to "table5".
        trained_on: name of the data set that the students were trained on.
        iterations: of these students.
        settings: the run's resolved config, nested.
    """
    own = own_dataset(trained_on)
    expected = paper().tables[table].iterations.get(own or "")
    if expected is None:
        return [f"trained on {trained_on}"]
    found = [] if iterations == (expected,) else [f"{', '.join(map(str, iterations))} iterations (paper {expected})"]
    for key, value in paper().protocol.items():
        ours = functools.reduce(lambda section, part: section.get(part, {}), key.split("."), settings)
        if ours != value:
            found.append(f"{key} is {ours} (paper {'its own list' if value is None else value})")
    return found


def paper_sign(table: str, variant: str, reference: str, metric: Metric) -> Sign | None:
    """Whether the variant is lower or higher than the reference row in the paper, or tied within the tie margin."""
    row, other = paper_row(table, variant), paper_row(table, reference)
    if row is None or other is None:
        return None
    value, base = getattr(row, metric), getattr(other, metric)
    if value is None or base is None:
        return None
    points = round(100 * (value - base), 1)
    if abs(points) <= paper().tie_margin:
        return "tie"
    return "higher" if points > 0 else "lower"
