"""What the steps before training have left of a tiny demo world."""

from __future__ import annotations

from typing import NamedTuple

from cliptea.config import Config
from cliptea.run import Run
from cliptea.steps.split import Splits
from cliptea.steps.teacher import TeacherCache
from cliptea.steps.train import training_data
from cliptea.storage import open_store
from cliptea.training.batches import TrainingData
from cliptea.training.loss_terms import TextFeatures


class TinyWorld(NamedTuple):
    run: Run
    splits: Splits
    teacher: TeacherCache

    def data(self, config: Config | None = None) -> TrainingData:
        """What a student with these settings learns from."""
        return training_data(open_store(), config or self.run.config, self.splits, self.teacher)[0]

    def text(self) -> TextFeatures:
        """The text features of the seen classes."""
        return training_data(open_store(), self.run.config, self.splits, self.teacher)[1]
