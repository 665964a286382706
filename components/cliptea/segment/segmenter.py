"""A trained student with its class list: from images to masks, also inside models in MLflow.

A model in MLflow carries a copy of this module and of what it imports (cliptea.tracking.model). So none of it knows
stores, pipelines or CLIP.

Shape legend: H, W image; N classes; D width; h, w size that the image is fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from cliptea import device
from cliptea.config import EvaluationConfig
from cliptea.errors import ConfigError, StorageError
from cliptea.models import build_student
from cliptea.models.student import Student
from cliptea.segment.inference import image_logits, padded_size
from cliptea.segment.masks import make_mask

__all__ = ["ClassSet", "Description", "Segmenter", "TeacherSource", "load_student", "open_segmenter"]

DESCRIPTION, WEIGHTS, TEXT = "model.json", "model.safetensors", "text.safetensors"
INSIDE = "artifacts/student"  # where a model in MLflow holds these


class TeacherSource(BaseModel):
    """Whose text tower made the class embeddings: the `teacher` settings of training."""

    weights: str
    model: str
    templates: str
    crop: int
    demo: str | None = None  # fingerprint of the demo's own CLIP


class Description(BaseModel):
    """The content of model.json."""

    backbone: str
    dim: int
    classes: list[str]
    unseen: list[str]
    evaluation: EvaluationConfig
    teacher: TeacherSource | None = None


class ClassSet(NamedTuple):
    """What an image is segmented into."""

    names: list[str]
    text_ND: Tensor  # unit-norm embeddings
    gamma_N: Tensor  # added to each class's logits


class Segmenter:
    """A student and what it was trained for."""

    def __init__(self, student: nn.Module, description: Description, text_ND: Tensor) -> None:
        self.student, self.description, self.text_ND = student, description, text_ND

    def known(self, names: Sequence[str] | None = None) -> ClassSet:
        """The model's own classes, or some of them, with its own gamma for the unseen ones.

        Raises:
            ConfigError: a name is not the model's, or there are none.
        """
        classes = self.description.classes
        chosen = list(classes if names is None else names)
        if strange := [name for name in chosen if name not in classes]:
            raise ConfigError(
                f"the model does not know {', '.join(map(repr, strange))}", "names from " + ", ".join(classes)
            )
        if not chosen:
            raise ConfigError("no class names are given", "names from " + ", ".join(classes))
        unseen_N = torch.tensor([name in self.description.unseen for name in chosen], device=self.text_ND.device)
        rows = [classes.index(name) for name in chosen]
        return ClassSet(chosen, self.text_ND[rows], unseen_N * self.description.evaluation.gamma)

    def mask(self, image_HW3: np.ndarray, classes: ClassSet) -> np.ndarray:
        """(H, W) uint8 ids, positions in `classes.names`, of a uint8 RGB image."""
        (mask_HW,) = self.masks([image_HW3], classes)
        return mask_HW

    @torch.inference_mode()
    def masks(self, images: Sequence[np.ndarray], classes: ClassSet) -> Iterator[np.ndarray]:
        """`mask` of each image, the same as one by one; they go through the network together.

        Args:
            images: uint8 RGB, of one `padded_size`.
        """
        for logits in image_logits(self.student, images, classes.text_ND, self.description.evaluation):
            yield make_mask(logits, classes.gamma_N)

    def padded_size(self, image_HW3: np.ndarray) -> tuple[int, int]:
        """Height and width that the network sees of an image."""
        return padded_size((image_HW3.shape[0], image_HW3.shape[1]), self.description.evaluation)


def load_student(backbone: str, dim: int, weights: Mapping[str, Tensor]) -> Student:
    """The trained network in eval mode, on the CPU."""
    student = build_student(backbone, dim)
    student.load_state_dict(weights)
    return student.eval()


def open_segmenter(folder: Path) -> Segmenter:
    """The model in a folder: one that MLflow keeps, or its `artifacts/student`.

    Raises:
        StorageError: there is none, or it is damaged.
    """
    inside = folder / INSIDE
    home = inside if inside.is_dir() else folder
    if not (home / DESCRIPTION).is_file():
        raise StorageError(f"{folder} does not hold a cliptea model", f"{DESCRIPTION}, {WEIGHTS} and {TEXT}")
    try:
        description = Description.model_validate_json((home / DESCRIPTION).read_text(encoding="utf-8"))
        text_ND = safetensors.torch.load_file(home / TEXT)["text"]
        student = load_student(description.backbone, description.dim, safetensors.torch.load_file(home / WEIGHTS))
    except (OSError, ValueError, safetensors.SafetensorError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"{folder} does not hold a cliptea model ({reason})", f"{DESCRIPTION}, {WEIGHTS} and {TEXT}"
        ) from error
    return Segmenter(student.to(device.best()), description, text_ND.to(device.best()))
