"""How far an image lies from the training images, in the features that the network makes of it.

The feature of an image is the mean of its pixels' features. The training images give the mean and the principal
components of this feature, with a standard deviation for each component. The sum of an image's squared standard scores
is its squared Mahalanobis distance in these components (Lee et al. 2018, arXiv 1807.03888). Few of the training images
exceed the limit of this sum. `distance` is the root of the sum divided by the limit, so that 1 is the limit.

Shape legend: M images; D width; K components; h, w size of the small logits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from cliptea.finite import require_finite
from cliptea.segment.image_logits import ImageLogits

__all__ = ["FEWEST_IMAGES", "SHARE", "TrainingFeatures", "image_feature"]

SHARE = 0.99  # of the training images lie within the limit
FEWEST_IMAGES = 100
MOST_COMPONENTS = 64
IMAGES_PER_COMPONENT = 5
SMALLEST = 1e-3  # standard deviation of a component relative to the largest; below it is rounding


class TrainingFeatures(NamedTuple):
    """The distribution of the features of training images, and the limit that few of them exceed."""

    directions_KD: Tensor  # float32, unit vectors
    mean_K: Tensor  # float32, of the features along each direction
    std_K: Tensor  # float32
    limit: float  # of the sum of squared standard scores

    @classmethod
    def fit(cls, features_MD: np.ndarray) -> TrainingFeatures | None:
        """The distribution in every other image, and the limit from the rest.

        Returns None if there are too few images, or if their features do not differ.

        Args:
            features_MD: float, the `image_feature` of each training image.
        """
        if len(features_MD) < FEWEST_IMAGES:
            return None
        fitted_MD, others_MD = features_MD[::2].astype(np.float64), features_MD[1::2].astype(np.float64)
        mean_D = fitted_MD.mean(0)
        _, singular, directions = np.linalg.svd(fitted_MD - mean_D, full_matrices=False)
        std = singular / math.sqrt(len(fitted_MD) - 1)
        used = min(MOST_COMPONENTS, len(fitted_MD) // IMAGES_PER_COMPONENT, int((std > SMALLEST * std[0]).sum()))
        if not used:
            return None
        along_KD, std_K = directions[:used], std[:used]
        limit = np.quantile((((others_MD - mean_D) @ along_KD.T / std_K) ** 2).sum(1), SHARE)
        parts = (torch.from_numpy(part.astype(np.float32)) for part in (along_KD, along_KD @ mean_D, std_K))
        return cls(*parts, limit=float(limit)) if limit > 0 else None

    def distance(self, along: ImageLogits) -> float:
        """The distance of an image. 1 is the limit, which few of the training images exceed.

        Args:
            along: the logits of the image with `directions_KD` as text features.

        Raises:
            NotFinite: it is too large for a number.
        """
        scores_K = (image_feature(along).to(self.mean_K.device) - self.mean_K) / self.std_K
        squared = (scores_K.double() ** 2).sum() / self.limit
        require_finite({"the distance": squared}, "an image", "check the model, or train it again")
        return math.sqrt(float(squared))

    def to(self, device: torch.device) -> TrainingFeatures:
        return self._replace(
            directions_KD=self.directions_KD.to(device), mean_K=self.mean_K.to(device), std_K=self.std_K.to(device)
        )

    def dump(self) -> bytes:
        """The content of the file in a model."""
        limit = torch.tensor(self.limit, dtype=torch.float64)
        named = {"directions": self.directions_KD, "mean": self.mean_K, "std": self.std_K, "limit": limit}
        return safetensors.torch.save({name: tensor.contiguous() for name, tensor in named.items()})

    @classmethod
    def load(cls, data: bytes, dim: int, name: str) -> TrainingFeatures:
        """What `dump` has written, for a network of the width `dim`. `name` is that of the file, for errors.

        Raises:
            KeyError, ValueError, SafetensorError: it holds something else.
            NotFinite: a number is NaN or infinite.
        """
        tensors = safetensors.torch.load(data)
        directions_KD, mean_K, std_K, limit = (tensors[key] for key in ("directions", "mean", "std", "limit"))
        number = len(directions_KD) if directions_KD.ndim else 0
        shapes = [tuple(tensor.shape) for tensor in (directions_KD, mean_K, std_K, limit)]
        if not number or shapes != [(number, dim), (number,), (number,), ()]:
            raise ValueError(f"{name} has the shapes {shapes}")
        directions_KD, mean_K, std_K = directions_KD.float(), mean_K.float(), std_K.float()
        require_finite({"directions": directions_KD, "mean": mean_K, "std": std_K, "limit": limit}, name)
        if not (float(std_K.min()) > 0 and float(limit) > 0):
            raise ValueError(f"{name} has a deviation or a limit that is not positive")
        if float(std_K.min()) < SMALLEST / 2 * float(std_K.max()):  # half, because numbers are rounded in the file
            raise ValueError(f"{name} has a deviation that is too small beside the others")
        return cls(directions_KD, mean_K, std_K, float(limit))


def image_feature(logits: ImageLogits) -> Tensor:
    """(N,): the mean of the small logits over the image, without its padding."""
    height, width = (
        math.ceil(small * fitted / padded)
        for small, fitted, padded in zip(logits.small_Nhw.shape[1:], logits.fitted, logits.padded, strict=True)
    )
    return logits.small_Nhw[:, :height, :width].float().mean((1, 2))
