"""A trained student with its class list, which computes masks of images. It is also used inside models in MLflow.

A model in MLflow contains a copy of this module and of everything that it imports (cliptea.tracking.model). So none of
these modules may use stores, pipelines or CLIP.

Shape legend: H, W image; N classes; D width; h, w size of the resized image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cliptea import device
from cliptea.data.catalogue import require_distinct
from cliptea.errors import ConfigError, StorageError, named, one_line, refuse_system
from cliptea.finite import require_finite
from cliptea.method.losses import FeatureNorm
from cliptea.models import build_student
from cliptea.models.student import Student
from cliptea.names import as_known
from cliptea.own_code import backbone_is_code
from cliptea.segment.inference import image_logits, padded_size
from cliptea.segment.masks import make_mask
from cliptea.segment.model_files import (
    DESCRIPTION,
    TEXT,
    TRAINING_FEATURES,
    WEIGHTS,
    Description,
    digest,
    home_of,
    read_model,
)
from cliptea.segment.training_features import TrainingFeatures

__all__ = ["ClassSet", "Segmenter", "load_student", "open_segmenter"]


class ClassSet(NamedTuple):
    """The classes to segment."""

    names: list[str]
    text_ND: Tensor  # unit-norm embeddings
    gamma_N: Tensor  # added to the logits of each class


class Segmenter:
    """A student with its description, its class embeddings and, if known, the features of its training images.

    Attributes:
        devices: which share the images if there are many; the student and the embeddings are on the first.
        sha256: of the files of the model, see `digest`; "" if it was not read from files.
    """

    def __init__(
        self,
        student: Student,
        description: Description,
        text_ND: Tensor,
        devices: Sequence[torch.device] | None = None,
        training_features: TrainingFeatures | None = None,
        sha256: str = "",
    ) -> None:
        self.student, self.description, self.text_ND = student, description, text_ND
        self.devices = devices or [text_ND.device]
        self.training_features, self.sha256 = training_features, sha256

    def known(self, names: Sequence[str] | None = None) -> ClassSet:
        """All classes of the model, or some of them, with its own gamma for the unseen ones.

        Raises:
            ConfigError: the model does not know a name, two names are the same to CLIP, or no names are given.
        """
        classes = self.description.classes
        require_distinct(names or ())
        chosen = list(classes) if names is None else as_known(names, classes)
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
        """The same as `mask` for each image, but computed as one batch.

        Args:
            images: uint8 RGB images with the same `padded_size`.
        """
        for logits in image_logits(self.student, images, classes.text_ND, self.description.evaluation):
            yield make_mask(logits, classes.gamma_N)

    def padded_size(self, image_HW3: np.ndarray) -> tuple[int, int]:
        """Height and width of the network's input for an image."""
        return padded_size((image_HW3.shape[0], image_HW3.shape[1]), self.description.evaluation)


def load_student(backbone: str, dim: int, weights: Mapping[str, Tensor], feature_norm: FeatureNorm = "none") -> Student:
    """The trained network in eval mode, on the CPU.

    Raises:
        NotFinite: a weight is NaN or infinite.
        RuntimeError: the weights do not fit the network.
    """
    student = build_student(backbone, dim, random=False)
    student.load_state_dict(weights)
    require_finite(student.state_dict(), "the student's weights", "train it again")  # float64 may become infinite
    student.feature_norm = feature_norm
    return student.eval()


def open_segmenter(folder: Path, allow_code: bool = False, where: str | None = None) -> Segmenter:
    """Open the model in a folder, which is an MLflow model or its `artifacts/student`.

    The files are compared with the sha256 in its SHA256SUMS, if it has one.

    Args:
        allow_code: whether the backbone may be a function of the user's own, which is imported and called.
        where: the device, such as cpu or cuda:1; None: all GPUs, or the CPU if there is none.

    Raises:
        ConfigError: the model names such a function, and this is not allowed; or there is no such device.
        NotFinite: a weight or a text feature is NaN or infinite.
        StorageError: the folder contains no model, or the model is damaged.
    """
    devices = device.chosen(where)
    device.allow_tf32(False)  # masks are those of the evaluate step
    try:
        description, files = read_model(folder)
        if backbone_is_code(description.backbone) and not allow_code:
            raise ConfigError(
                f"the model names code of its own to run: {description.backbone[:200]}",
                "a backbone of cliptea, or timm:NAME",
                "add --allow-code if you trust the origin of the model and of that code",
            )
        text_ND = safetensors.torch.load(files[TEXT])["text"]
        if tuple(text_ND.shape) != (len(description.classes), description.dim) or not text_ND.is_floating_point():
            raise ValueError(f"{TEXT} has the shape {tuple(text_ND.shape)}")
        text_ND = text_ND.float()
        with named(str(home_of(folder))):
            require_finite({"a text feature": text_ND}, TEXT)
            weights = safetensors.torch.load(files[WEIGHTS])
            student = load_student(description.backbone, description.dim, weights, description.feature_norm)
            known = files.get(TRAINING_FEATURES)
            features = known and TrainingFeatures.load(known, description.dim, TRAINING_FEATURES)
    except (OSError, ValueError, safetensors.SafetensorError, KeyError, RuntimeError) as error:
        refuse_system(error, f"cannot read the model in {folder}")
        why = "" if isinstance(error, FileNotFoundError) else f" ({one_line(error)[:200]})"
        expected = f"{DESCRIPTION}, {WEIGHTS} and {TEXT}"
        raise StorageError(f"{folder} does not hold a cliptea model{why}", expected) from error
    first = devices[0]
    features = features.to(first) if features else None
    return Segmenter(student.to(first), description, text_ND.to(first), devices, features, digest(files))
