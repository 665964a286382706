"""The contents of the report: `gather.gather_context` collects them and `page.build_report` renders them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from cliptea.data.catalogue import Catalogue
from cliptea.evaluation.results import ResultRow
from cliptea.report.summaries import GammaScores
from cliptea.teacher.outputs import ClipTime

__all__ = ["AttentionPicture", "PredictionPicture", "RegionPicture", "ReportContext", "RunFacts"]


class RunFacts(BaseModel):
    """The facts of a run that its numbers depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    preset: str
    dataset: str  # the one trained on, also the main evaluation set
    data_seed: int
    images: dict[str, dict[str, int]]  # data set -> "train" or "val" -> number of its images that were used
    catalogue: Catalogue
    other_catalogues: dict[str, Catalogue] = {}  # of further evaluation sets, by name
    gamma: float
    teacher: str  # a sentence or less
    clip_sha256: str = ""  # of the file with its weights; "" for a tag, or where an earlier version made the tokens
    clip_views: int | None = None  # whose tokens CLIP has computed; None: not known
    clip_time: ClipTime = ClipTime()  # for those of these views that were measured
    stand_in: bool  # the teacher was not trained for this data, so the numbers are meaningless
    abouts: dict[str, str] = {}  # label -> the variant in one line
    complete: bool = True  # whether no part of the run is missing, so that a model can be shipped
    model: str = ""  # name of the registered model that the best student becomes a version of
    candidates: list[str]  # labels of the variants that use the run's own method, of which one may be shipped
    seeds: list[int]
    iterations: int
    data_digest: str
    versions: dict[str, str]  # package -> version
    mlflow_run_id: str
    mlflow_command: str  # opens MLflow with this run, without a place on this machine; a server's address
    settings: dict[str, Any] = {}  # the resolved config, nested


class PredictionPicture(NamedTuple):
    id: str
    image: np.ndarray  # (H, W, 3) uint8
    truth: np.ndarray  # (H, W) class indices, 255 ignored
    predictions: dict[str, np.ndarray]  # label -> (H, W) class indices


class AttentionPicture(NamedTuple):
    id: str
    image: np.ndarray  # (H, W, 3) uint8
    maps: dict[str, np.ndarray]  # label -> (h, w) float, not negative; padding has their mean


class RegionPicture(NamedTuple):
    id: str
    image: np.ndarray  # (H, W, 3) uint8
    labels: np.ndarray  # (H, W) class indices that the student sees, 255 unlabelled
    regions: np.ndarray  # (H, W) region numbers, 255 none


@dataclass(frozen=True)
class ReportContext:
    """Everything on the page. Pictures and losses are from the first seed; labels are those of the rows."""

    facts: RunFacts
    rows: list[ResultRow]
    sweep: list[GammaScores] = field(default_factory=list)
    losses: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)  # label -> term -> curve
    predictions: list[PredictionPicture] = field(default_factory=list)
    attention: list[AttentionPicture] = field(default_factory=list)
    regions: list[RegionPicture] = field(default_factory=list)
    confusions: dict[str, np.ndarray] = field(default_factory=dict)  # label -> (N, N) pixels, true by predicted class
    warnings: list[str] = field(default_factory=list)
