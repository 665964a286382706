"""Scores of one training run on one evaluation set, `results.json`, and means and spreads over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from cliptea.errors import DataError

__all__ = [
    "METRICS", "Metric", "ResultRow", "Scores", "Spread", "Summary", "SweepRow", "SweepSpreads",
    "dump_results", "load_results", "spread", "summarise", "summarise_sweep",
]  # fmt: skip

Metric = Literal["pAcc", "miou_seen", "miou_unseen", "hiou"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def _nan_is_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


Score = Annotated[float, Field(ge=0, le=1)]
OptionalScore = Annotated[Score | None, BeforeValidator(_nan_is_none)]  # None: no pixel that could count


class Scores(BaseModel):
    """The four scores of a confusion matrix, fractions 0-1; None where no class of the group has pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pAcc: OptionalScore
    miou_seen: OptionalScore
    miou_unseen: OptionalScore
    hiou: OptionalScore


class ResultRow(BaseModel):
    """One variant of one group, trained with one seed, on one evaluation set: an object of `results.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    group: str
    backbone: str
    dataset: str
    seed: int
    iterations: int
    gamma: float
    pAcc: OptionalScore
    miou_seen: OptionalScore
    miou_unseen: OptionalScore
    hiou: OptionalScore
    per_class: dict[str, OptionalScore]  # None: the class has no pixels
    images_per_second: Annotated[float, Field(ge=0)]
    model_uri: str  # in MLflow; in the store while MLflow could not be told
    mlflow_run_id: str  # empty while MLflow could not be told


class SweepRow(BaseModel):
    """Scores of the same logits at other values of gamma: reported, never used to choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    group: str
    dataset: str
    seed: int
    sweep: dict[str, Scores]  # gamma -> scores


class Spread(BaseModel):
    """Mean and sample standard deviation over seeds; `sd` is None with fewer than two values."""

    model_config = ConfigDict(frozen=True)

    mean: float | None
    sd: float | None
    n: int


class Summary(BaseModel):
    """A variant on an evaluation set, over its seeds."""

    model_config = ConfigDict(frozen=True)

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
    images_per_second: Spread
    model_uris: tuple[str, ...]


SweepSpreads = dict[float, dict[Metric, Spread]]  # gamma -> metric -> over seeds


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sample standard deviation (n - 1) of the values that are not None."""
    known = [value for value in values if value is not None]
    mean = statistics.fmean(known) if known else None
    return Spread(mean=mean, sd=statistics.stdev(known) if len(known) > 1 else None, n=len(known))


def summarise(rows: Sequence[ResultRow]) -> list[Summary]:
    """Means and sample standard deviations over seeds, in the rows' order of first appearance.

    Raises:
        DataError: two rows of one group, variant, evaluation set and seed: a spread would be too small.
    """
    parts: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    met: set[tuple[str, str, str, int]] = set()
    for row in rows:
        identity = (row.group, row.variant, row.dataset, row.seed)
        if identity in met:
            raise DataError(
                f"two results for {row.group}/{row.variant} on {row.dataset} with seed {row.seed}",
                "one row for each variant, evaluation set and seed",
                "remove one of them",
            )
        met.add(identity)
        parts.setdefault((row.group, row.variant, row.backbone, row.dataset), []).append(row)
    return [_summary(sorted(part, key=lambda row: row.seed)) for part in parts.values()]


def summarise_sweep(rows: Sequence[SweepRow]) -> dict[tuple[str, str, str], SweepSpreads]:
    """(group, variant, dataset) -> gamma -> metric -> spread over seeds, gammas ascending."""
    values: dict[tuple[str, str, str], dict[float, list[Scores]]] = {}
    for row in rows:
        points = values.setdefault((row.group, row.variant, row.dataset), {})
        for gamma, scores in row.sweep.items():
            points.setdefault(float(gamma), []).append(scores)
    return {
        key: {
            gamma: {metric: spread(getattr(scores, metric) for scores in points[gamma]) for metric in METRICS}
            for gamma in sorted(points)
        }
        for key, points in values.items()
    }


def dump_results(rows: Sequence[ResultRow]) -> str:
    """The text of `results.json`: a list of objects."""
    items = [row.model_dump(mode="json") for row in rows]
    return json.dumps(items, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load_results(path: str | Path) -> list[ResultRow]:
    """Read `results.json`; keys that a later version added are left out.

    Raises:
        DataError: not readable, not JSON, or not a list of result objects.
    """
    path, todo = Path(path), "write it again with cliptea run"
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", "a list of results as JSON", todo) from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{path} holds no list of objects", "one object for each result", todo)
    fields = ResultRow.model_fields
    try:
        return [ResultRow(**{key: value for key, value in item.items() if key in fields}) for item in items]
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {key}: {first['msg']}", "the keys of a result row", todo) from error


def _summary(rows: Sequence[ResultRow]) -> Summary:
    first = rows[0]
    classes = dict.fromkeys(name for row in rows for name in row.per_class)
    by_seed: dict[Metric, dict[int, float]] = {metric: {} for metric in METRICS}
    for row in rows:
        for metric in METRICS:
            if (value := getattr(row, metric)) is not None:
                by_seed[metric][row.seed] = value
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
        images_per_second=spread(row.images_per_second for row in rows),
        model_uris=tuple(row.model_uri for row in rows),
    )
