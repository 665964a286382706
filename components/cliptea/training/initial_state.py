"""The weights of a trained model, which a student starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from cliptea.errors import ConfigError
from cliptea.finite import require_finite
from cliptea.models.encoder_weights import misfits, without_prefix
from cliptea.models.student import Student

__all__ = ["InitialState"]


class InitialState(NamedTuple):
    """A trained model: its name for messages, the width of its features, and its weights."""

    name: str
    dim: int
    weights: Mapping[str, Tensor]

    def load(self, student: Student, dim: int) -> None:
        """Load all weights into a student. Prefixes of training programs are removed if the names need that.

        Args:
            dim: the teacher's joint width.

        Raises:
            ConfigError: they do not fit.
            NotFinite: a weight is NaN or infinite.
        """
        if self.dim != dim:
            raise ConfigError(
                f"train.init_from={self.name} has {self.dim} features, and the teacher has {dim}",
                "a model that was trained with a teacher of the same width",
            )
        weights = without_prefix(self.weights, student.state_dict().keys())
        if said := misfits(student, weights):
            raise ConfigError(
                f"the weights of train.init_from={self.name} do not fit the student: {said}",
                "a model with the same student.backbone",
            )
        student.load_state_dict(weights)
        require_finite(student.state_dict(), f"train.init_from={self.name}", "train it again")  # as float32
