"""Scores of one student on one evaluation set, as in a row of `results.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["METRICS", "Metric", "ResultRow", "Scored", "Scores", "dump_results", "scalars"]

Metric = Literal["pAcc", "miou_seen", "miou_unseen", "hiou"]
METRICS: tuple[Metric, ...] = get_args(Metric)


Finite = Annotated[float, Field(allow_inf_nan=False)]
OptionalScore = Annotated[Finite, Field(ge=0, le=1)] | None  # None: no pixels to evaluate


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
    iterations: int  # after which the weights were kept
    gamma: Finite
    pAcc: OptionalScore
    miou_seen: OptionalScore
    miou_unseen: OptionalScore
    hiou: OptionalScore
    per_class: dict[str, OptionalScore]  # None: the class has no pixels
    images_per_second: Annotated[Finite, Field(ge=0)]
    model_uri: str  # in MLflow, or in the store if the model is not logged yet
    mlflow_run_id: str  # empty if the model is not logged yet
    heldout_miou_seen: OptionalScore = None  # on training images that were held out; None: training had no validation

    @property
    def label(self) -> str:
        """Group and variant, the key of pictures and loss curves in the report."""
        return f"{self.group}/{self.variant}"


def dump_results(rows: Sequence[ResultRow]) -> str:
    """The text of `results.json`: a list of objects."""
    items = [row.model_dump(mode="json") for row in rows]
    return json.dumps(items, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def scalars(rows: Sequence[ResultRow]) -> dict[str, float]:
    """The mIoU and hIoU of one student, as Pipelines compares them. Those of further sets begin with the set's name.

    Args:
        rows: of the training data set first. A score without pixels has no number.
    """
    found: dict[str, float] = {}
    for row in rows:
        before = "" if row.dataset == rows[0].dataset else f"{row.dataset}/"
        for name in ("hiou", "miou_seen", "miou_unseen"):
            if (value := getattr(row, name)) is not None:
                found[f"{before}{name}"] = value
    return found
