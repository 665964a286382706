"""The file that `cliptea evaluate` writes, with its own sha256.

This module needs no torch, so that a wrong file is reported at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_serializer

from cliptea.config import EvaluationConfig
from cliptea.data.left_out import LeftOut
from cliptea.errors import ConfigError
from cliptea.evaluation.results import Scored
from cliptea.manifest import Sha256
from cliptea.parse import read_text
from cliptea.sealed import Damaged, unseal

__all__ = ["Measurement", "are_scores", "read_scores"]


class Measurement(Scored):
    """What `cliptea evaluate -o FILE` writes: the scores, among all classes of the data set, and what they are of."""

    model: str  # its address
    model_sha256: Sha256  # of its files, see `cliptea.segment.model_files.digest`
    dataset: str
    images: int
    left_out: dict[str, LeftOut] = Field({})  # what else is in the folders of the data set, by the reason
    evaluation: EvaluationConfig  # written without those that do not decide masks
    other_settings: dict[str, dict[str, Any]]  # those of `evaluation` that are not the model's own
    unseen: list[str]  # classes that the data set calls so
    unseen_with_masks: list[str]  # those of them that had masks in training
    text_sha256: dict[str, str]  # of the embedding of each class

    @field_serializer("evaluation")
    def _deciding(self, evaluation: EvaluationConfig) -> dict[str, Any]:
        return evaluation.deciding()

    def require_model(self, sha256: str) -> None:
        """Check whose scores these are.

        Args:
            sha256: of the model that they must be of.

        Raises:
            ConfigError: they are of another model.
        """
        if self.model_sha256 != sha256:
            raise ConfigError(
                f"the scores belong to another model, whose address was {self.model} when they were measured",
                "scores of this model",
                "run cliptea evaluate again",
            )


def read_scores(file: Path) -> Measurement:
    """The scores in a file of `cliptea evaluate`.

    Raises:
        ConfigError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        return unseal(read_text(file, "the file"), Measurement)
    except Damaged as damaged:
        raise ConfigError(
            f"{file} {damaged}", "a file of cliptea evaluate", "delete it and run cliptea evaluate again"
        ) from None
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"{file} holds no scores: {place} is missing or wrong", "a file of cliptea evaluate"
        ) from None


def are_scores(file: Path) -> bool:
    """Whether a file is one of `cliptea evaluate`."""
    try:
        read_scores(file)
    except ConfigError:
        return False
    return True
