"""The files of a trained model: model.json, its weights, and the features of its classes and training images.

This needs no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from cliptea.config import EvaluationConfig, Synonyms, Templates, require_templates
from cliptea.errors import ConfigError, StorageError
from cliptea.files import SUMS, oddity, sums
from cliptea.parse import parse_json, read_text

__all__ = [
    "DESCRIPTION", "FILES", "TEXT", "TRAINING_FEATURES", "WEIGHTS", "Description", "TeacherSource", "digest",
    "home_of", "read_description", "read_model",
]  # fmt: skip

FILES = DESCRIPTION, WEIGHTS, TEXT = "model.json", "model.safetensors", "text.safetensors"
TRAINING_FEATURES = "training_features.safetensors"  # which not every model has
INSIDE = "artifacts/student"  # folder of these files in an MLflow model


class TeacherSource(BaseModel):
    """The CLIP whose text tower computed the class embeddings: the `teacher` settings of training."""

    weights: str
    model: str
    templates: Templates
    crop: int
    sha256: str = ""  # of the file with the weights, if they are one or a folder with one
    demo: str | None = None  # fingerprint of the demo's own CLIP
    synonyms: Synonyms = {}  # class -> its names, if it has others than its own

    @model_validator(mode="after")
    def _prompted(self) -> TeacherSource:
        require_templates(self.templates)
        return self


class Description(BaseModel):
    """The content of model.json."""

    backbone: str
    dim: Annotated[int, Field(ge=1, le=1 << 16)]
    classes: Annotated[list[str], Field(min_length=1, max_length=255)]
    unseen: list[str]
    learned_before: list[str] = []  # further classes with masks, of the models that training started from
    evaluation: EvaluationConfig
    feature_norm: Literal["none", "scaled_cosine"] = "none"  # of training, `method.feature_norm`
    setting: Literal["inductive", "transductive"] = "inductive"  # whether training knew the names of unseen classes
    teacher: TeacherSource | None = None
    licence: str = ""  # of the weights that training started from
    dataset: str = ""  # that it was trained on
    origin: dict[str, str] = {}  # cliptea.version and git.commit of the code that trained it, if known

    @property
    def had_masks(self) -> list[str]:
        """The classes with masks in training, also in that of the models that training started from."""
        return [name for name in self.classes if name not in self.unseen] + self.learned_before

    @model_validator(mode="after")
    def _listed(self) -> Description:
        if len(set(self.classes)) < len(self.classes) or not set(self.unseen) <= set(self.classes):
            raise ValueError("a class is listed twice, or an unseen class is not in the list")
        return self


def digest(files: Mapping[str, bytes]) -> str:
    """The sha256 of the model's SHA256SUMS. Models with the same files have the same one, whatever their address."""
    return hashlib.sha256(sums(files)).hexdigest()


def home_of(folder: Path) -> Path:
    """The folder with these files, in or at the folder of a model."""
    inside = folder / INSIDE
    return inside if inside.is_dir() else folder


def read_model(folder: Path) -> tuple[Description, dict[str, bytes]]:
    """The description and the files of the model in a folder, which is an MLflow model or its `artifacts/student`.

    The files are compared with the sha256 in its SHA256SUMS, if it has one.

    Raises:
        OSError: a file is missing, or is not a file.
        ValueError: model.json is not valid, or SHA256SUMS cannot be read.
        StorageError: the files do not match.
    """
    home = home_of(folder)
    names = [*FILES, TRAINING_FEATURES] if os.path.lexists(home / TRAINING_FEATURES) else FILES
    if odd := [f"{name} is {what}" for name in names if (what := oddity(home / name))]:
        raise OSError(odd[0])
    files = {name: (home / name).read_bytes() for name in names}
    if os.path.lexists(home / SUMS) and _small(home / SUMS) != sums(files):
        raise StorageError(
            f"the model in {home} is damaged", f"files that match its {SUMS}", "fetch or train the model again"
        )
    return read_description(folder), files


def read_description(folder: Path) -> Description:
    """The description of the model in a folder, as for `read_model`.

    Raises:
        ValueError: it cannot be read, or is not valid.
    """
    try:
        return Description.model_validate(parse_json(_small(home_of(folder) / DESCRIPTION), DESCRIPTION))
    except ConfigError as error:
        raise ValueError(error.what) from None


def _small(file: Path) -> bytes:
    try:
        return read_text(file, "the file")
    except ConfigError as error:
        raise ValueError(error.what) from None
