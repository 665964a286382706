"""Validation while training: how well the student segments the seen classes in training images that are held out.

Only the masks and the text features of seen classes are used, and nothing that belongs to the val images. So the score
may be used to choose the iteration whose weights are kept, to stop early, and to choose between settings.

The processes divide the images among themselves and add up their confusion matrices, so the score does not depend on
their number. A network of its own computes the predictions, as in the evaluate step. So training continues as if there
were no validation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cliptea import progress
from cliptea.data.ahead import ahead
from cliptea.data.records import read_pair
from cliptea.errors import DataError, named
from cliptea.evaluation.metrics import confusion, score
from cliptea.messages import number_of
from cliptea.models.student import Student
from cliptea.segment.inference import image_logits
from cliptea.segment.masks import make_mask
from cliptea.segment.segmenter import load_student
from cliptea.training.batches import TrainingData
from cliptea.training.history import HELD_OUT
from cliptea.training.trainer import Trainer

__all__ = ["Validation"]


class Validation:
    """Scores the student of a trainer. Scores and best weights are the same in every process.

    Args:
        trainer: the training, whose history keeps the scores.
        data: with the held-out images.

    Attributes:
        best_weights: the weights with the best score, on the CPU, if `train.keep` is best.
    """

    def __init__(self, trainer: Trainer, data: TrainingData) -> None:
        self._trainer, self._data = trainer, data
        # float32: which iteration is kept does not depend on the precision of the evaluation step
        self._evaluation = trainer.config.evaluation.model_copy(update={"precision": "float32"})
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def scores(self) -> dict[int, float]:
        """The score of each validated iteration: the mIoU of the seen classes, from 0 to 1."""
        curves = self._trainer.history.curves
        return {int(point["iteration"]): point[HELD_OUT] for point in curves if HELD_OUT in point}

    @property
    def best(self) -> int:
        """The iteration with the best score, the first one of equal scores."""
        scores = self.scores
        return max(scores, key=scores.__getitem__)

    @property
    def kept(self) -> int:
        """The validated iteration whose weights are kept."""
        return self.best if self._trainer.config.train.keep == "best" else max(self.scores)

    @property
    def is_due(self) -> bool:
        """Whether the student has to be validated at this iteration, and has not been yet."""
        train, iteration = self._trainer.config.train, self._trainer.iteration
        if not train.validate_every or iteration == 0:
            return False
        chosen = iteration % train.validate_every == 0 or iteration == train.iterations
        return chosen and iteration not in self.scores

    @property
    def is_hopeless(self) -> bool:
        """Whether the last `train.patience` validations brought no new best score, so that training stops early."""
        patience = self._trainer.config.train.patience
        if patience is None:  # the usual case, asked after every step
            return False
        scores = self.scores
        best = self.best if scores else 0
        return sum(iteration > best for iteration in scores) >= patience

    def require_seen_class(self) -> None:
        """Check before training that a held-out image shows a seen class. It usually reads one image.

        Raises:
            DataError: none does.
        """
        seen = len(self._trainer.text.seen_SD)
        if not any((self._read(number)[2] < seen).any() for number in self._data.held_out):
            raise self._nothing_seen()

    def validate(self, interrupted: Callable[[], bool]) -> bool:
        """Score the student and add the score to the last point of the curves, if that is due.

        Args:
            interrupted: whether to stop now; the same in all processes. It is asked before every image.

        Returns:
            False if it was interrupted. Then it is still due.

        Raises:
            DataError: no held-out image shows a seen class.
            NotFinite: a weight or a logit is NaN or infinite.
        """
        if not self.is_due:
            return True
        trainer, start = self._trainer, time.perf_counter()
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in trainer.student.state_dict().items()}
        matrix_SS = self._confusion(weights, interrupted)
        trainer.history.validating += time.perf_counter() - start
        if matrix_SS is None:
            return False
        found = score(matrix_SS, []).miou_seen
        if found is None:
            raise self._nothing_seen()
        trainer.history.curves[-1][HELD_OUT] = found
        if trainer.config.train.keep == "best" and self.best == trainer.iteration:
            self.best_weights = weights
        return True

    def _nothing_seen(self) -> DataError:
        return DataError(
            f"no seen class is in the {number_of(len(self._data.held_out), 'held-out image')}",
            "a pixel of a seen class in one of them",
            "raise train.held_out, or set train.validate_every=0",
        )

    def summary(self) -> dict[str, Any]:
        """What the manifest of the model says about validation: the kept iteration and its score, and the cost."""
        scores = self.scores
        return {
            "iteration": self.kept,
            HELD_OUT: scores[self.kept],
            "validations": len(scores),
            "images": len(self._data.held_out),
            "seconds": self._trainer.history.validating,
        }

    def conclusion(self) -> str:
        """The end of a validated training in a sentence."""
        found, trainer = self.summary(), self._trainer
        stopped = self.is_hopeless and trainer.iteration < trainer.config.train.iterations
        early = f"stopped early at iteration {trainer.iteration}, " if stopped else ""
        return (
            f"{early}validated {found['validations']} times on {found['images']} held-out images "
            f"in {progress.clock(found['seconds'])}; the model is the student of iteration {found['iteration']}, "
            f"whose mIoU of the seen classes is {found[HELD_OUT]:.4f} on them"
        )

    def _confusion(self, weights: dict[str, Tensor], interrupted: Callable[[], bool]) -> np.ndarray | None:
        """(S, S) pixels of all held-out images, by their true and predicted seen class; or None if interrupted."""
        trainer, world, held_out = self._trainer, self._trainer.world, self._data.held_out
        gpus = [torch.cuda.current_device()] if trainer.where.type == "cuda" else []
        matrix_SS = np.zeros((len(trainer.text.seen_SD),) * 2, dtype=np.int64)
        with torch.random.fork_rng(gpus), progress.bar("validating", len(held_out), "image") as bar:
            student = self._student(weights)
            pairs = ahead(self._read, held_out[world.rank :: world.size])
            for first in range(0, len(held_out), world.size):
                if interrupted():
                    return None
                if first + world.rank < len(held_out):
                    matrix_SS += self._confused(student, *next(pairs))
                bar.update(min(world.size, len(held_out) - first))
        return world.total(torch.from_numpy(matrix_SS)).numpy()

    def _student(self, weights: dict[str, Tensor]) -> Student:
        config, dim = self._trainer.config, self._trainer.text.seen_SD.shape[1]
        student = load_student(config.student.backbone, dim, weights, config.method.feature_norm)
        return student.to(self._trainer.where)

    def _read(self, number: int) -> tuple[str, np.ndarray, np.ndarray]:
        """Name, image and seen indices of a training image."""
        image_HW3, labels_HW = read_pair(self._data.images, number)
        return self._data.images.name(number), image_HW3, self._data.seen_index[labels_HW]

    def _confused(self, student: Student, name: str, image_HW3: np.ndarray, truth_HW: np.ndarray) -> np.ndarray:
        text_SD = self._trainer.text.seen_SD
        with named(f"held-out image {name}"):
            (logits,) = image_logits(student, [image_HW3], text_SD, self._evaluation)
        mask_HW = make_mask(logits, text_SD.new_zeros(len(text_SD)))
        return confusion(torch.from_numpy(truth_HW), torch.from_numpy(mask_HW), len(text_SD)).numpy()
