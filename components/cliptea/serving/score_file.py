"""Reads the file that `cliptea evaluate` writes. Needs no torch, so that a wrong file is told at once."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError

from cliptea.errors import ConfigError
from cliptea.evaluation.results import OptionalScore, Scores
from cliptea.parse import parse_json, read_text

__all__ = ["Measurement", "read_scores"]


class Measurement(BaseModel):
    """What `cliptea evaluate -o FILE` writes, as far as a model card needs it."""

    model: str
    dataset: str
    images: int
    gamma: float
    scores: Scores
    per_class: dict[str, OptionalScore]


def read_scores(file: Path, model: str) -> Measurement:
    """The scores in a file of `cliptea evaluate`.

    Args:
        model: the address of the model that they must be of.

    Raises:
        ConfigError: they are of another model, or the file cannot be read.
    """
    try:
        found = Measurement.model_validate(parse_json(read_text(file, "the file"), str(file)))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(
            f"{file} holds no scores: {place} is missing or wrong", "a file of cliptea evaluate"
        ) from None
    if found.model != model:
        raise ConfigError(f"the scores in {file} are of the model {found.model}", f"scores of {model}")
    return found
