"""The evaluation sets of a student, and where the scores on each lie in the store."""

from __future__ import annotations

from typing import NamedTuple

from cliptea.config import Config
from cliptea.data.catalogue import Catalogue
from cliptea.manifest import Manifest, Output, fingerprint
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache

__all__ = ["FIGURES", "EvaluationTask", "evaluation_tasks", "scores_output"]

FIGURES = "figures.npz"  # the arrays that `cliptea.evaluation.scoring` returns in addition to the scores


class EvaluationTask(NamedTuple):
    """One evaluation set for one student."""

    label: str
    split: Manifest
    text: Manifest
    gamma: float

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue.model_validate(self.split.info["catalogue"])


def evaluation_tasks(config: Config, splits: Splits, teacher: TeacherCache) -> list[EvaluationTask]:
    """The training data set, followed by the further evaluation sets in their order."""
    evaluation, shards = config.evaluation, splits.named(config.data.name)
    gammas = {config.data.name: evaluation.gamma} | {name: further.gamma for name, further in evaluation.sets.items()}
    return [EvaluationTask(label, shards[label], teacher.text[label], gamma) for label, gamma in gammas.items()]


def scores_output(config: Config, task: EvaluationTask, trained: Manifest) -> Output:
    """The output for a student, the val images with their text features, and the evaluation settings."""
    fp = fingerprint(
        "evaluate",
        evaluation=config.evaluation.counting("sets", "gamma", "gamma_no_cls_token"),
        gamma=task.gamma,
        model=trained.fingerprint,
        split=task.split.fingerprint,
        text=task.text.fingerprint,
    )
    return Output("evaluate", fp)
