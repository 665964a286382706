"""Reads the file that `cliptea evaluate` writes. Needs no torch, so that a wrong file is told at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from cliptea.config import EvaluationConfig
from cliptea.errors import ConfigError
from cliptea.evaluation.results import OptionalScore, Scores
from cliptea.manifest import Sha256
from cliptea.parse import parse_json, read_text

__all__ = ["Measurement", "are_scores", "read_scores"]


class Measurement(BaseModel):
    """What `cliptea evaluate -o FILE` writes, as far as a model card needs it."""

    model: str  # its address
    model_sha256: Sha256  # of its files, see `cliptea.segment.model_files.digest`
    dataset: str
    images: int
    evaluation: EvaluationConfig  # those that decide masks
    unseen: list[str]  # classes that the data set calls so
    unseen_with_masks: list[str]  # those of them that had masks in training
    text_sha256: dict[str, str]  # of the embedding of each class
    scores: Scores
    per_class: dict[str, OptionalScore]  # IoU among all these classes

    def require_model(self, sha256: str) -> None:
        """Check whose scores these are.

        Args:
            sha256: of the model that they must be of.

        Raises:
            ConfigError: they are of another model.
        """
        if self.model_sha256 != sha256:
            raise ConfigError(
                f"the scores are of another model: they were measured when the address was {self.model}",
                "scores of this model",
                "run cliptea evaluate again",
            )


def read_scores(file: Path) -> Measurement:
    """The scores in a file of `cliptea evaluate`.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        return Measurement.model_validate(parse_json(read_text(file, "the file"), str(file)))
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
