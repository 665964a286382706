"""Scores of one training run on one evaluation set: a row of `results.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["METRICS", "Metric", "ResultRow", "Scored", "Scores", "dump_results"]

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


class Scored(BaseModel):
    """A student's scores on one evaluation set."""

    scores: Scores
    per_class: dict[str, OptionalScore]  # IoU; None: the class has no pixels
    sweep: dict[str, Scores]  # by gamma


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


def dump_results(rows: Sequence[ResultRow]) -> str:
    """The text of `results.json`: a list of objects."""
    items = [row.model_dump(mode="json") for row in rows]
    return json.dumps(items, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
