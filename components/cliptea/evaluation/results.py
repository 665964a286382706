"""Scores of one student on one evaluation set, as in a row of `results.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from cliptea.sweeps import Trial

__all__ = ["METRICS", "SCORE_NAMES", "Inference", "Metric", "ResultRow", "Scored", "Scores", "dump_results", "scalars"]

Metric = Literal["pAcc", "miou_seen", "miou_unseen", "hiou"]
METRICS: tuple[Metric, ...] = get_args(Metric)
SCORE_NAMES: dict[Metric, str] = {  # as they are shown, with the one that decides first
    "hiou": "hIoU", "miou_unseen": "unseen mIoU", "miou_seen": "seen mIoU", "pAcc": "pAcc",
}  # fmt: skip


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(ge=0)]
OptionalScore = Annotated[Finite, Field(ge=0, le=1)] | None  # None: no pixels to evaluate


class Inference(BaseModel):
    """The speed of a student on one device, from pixels in memory to masks, and its size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str  # name of the GPU, or of the processor
    threads: int
    precision: str
    size: str  # height x width of the images
    latency_ms: Positive  # of one image alone, median
    images_per_second: Positive  # of many images, median
    peak_memory_mib: Positive | None  # of the GPU for one image, with the weights; None: not measured on a CPU
    parameters: int
    gflops: Positive  # billions of operations of the network for one image; a multiplication and an addition are two

    @property
    def conditions(self) -> tuple[str, int, str, str]:
        """What must be equal for two speeds to be comparable."""
        return self.device, self.threads, self.precision, self.size


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
    training_images_per_second: Positive
    model_uri: str  # in MLflow, or in the store if the model is not logged yet
    mlflow_run_id: str  # empty if the model is not logged yet
    heldout_miou_seen: OptionalScore = None  # on training images that were held out; None: training had no validation
    inference: Inference | None = None  # None: not measured
    trial: Trial | None = None  # the sweep and its settings; None: the variant is no trial of a sweep

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
