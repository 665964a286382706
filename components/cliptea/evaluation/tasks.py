"""What a student is scored on, and what its scores are handed on as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel

from cliptea.config import Config
from cliptea.data.split import Splits
from cliptea.evaluation.results import ResultRow
from cliptea.manifest import Manifest, StoredObject
from cliptea.teacher.cache import TeacherCache

__all__ = ["Evaluated", "EvaluationTask", "chosen_images", "evaluation_tasks"]


class EvaluationTask(NamedTuple):
    """One evaluation set for one student."""

    label: str
    split: Manifest
    text: Manifest
    gamma: float


def evaluation_tasks(config: Config, splits: Splits, teacher: TeacherCache) -> list[EvaluationTask]:
    """The data set itself, then the further sets in their order."""
    evaluation = config.evaluation
    own_gamma = evaluation.gamma if config.method.losses.cls_token else evaluation.gamma_no_cls_token
    gammas = {config.data.dataset: own_gamma} | {name: further.gamma for name, further in evaluation.sets.items()}
    shards = {config.data.dataset: splits.own, **splits.others}
    return [EvaluationTask(label, shards[label], teacher.text[label], gamma) for label, gamma in gammas.items()]


def chosen_images(names: Sequence[str], figures: int | list[str]) -> list[str]:
    """Those of the names that are shown in figures: the first ones, or the ones asked for."""
    return list(names[:figures]) if isinstance(figures, int) else [name for name in names if name in figures]


class Evaluated(BaseModel):
    """What an evaluated variant hands on: a result row for each group and evaluation set, and where the rest lies."""

    rows: list[ResultRow]
    telling: str  # name of what MLflow is told of it (see `cliptea.tracking.untold`)
    manifests: dict[str, Manifest]  # by evaluation set, the data set itself first
    history: StoredObject
    protocol: str  # fingerprint of the data set's own val images and how they are measured
