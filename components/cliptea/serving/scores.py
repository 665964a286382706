"""The scores of a trained model on any data set, outside of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cliptea.config import EvaluationConfig
from cliptea.data.datasets import Dataset
from cliptea.data.sample import decode_image
from cliptea.evaluation.results import Scored
from cliptea.evaluation.scoring import score_student
from cliptea.segment.segmenter import ClassSet, Segmenter

__all__ = ["evaluate", "settings_of"]


def settings_of(model: Segmenter, given: EvaluationConfig) -> EvaluationConfig:
    """The settings that a preset or `--set` gives, and for all others those that the model was evaluated with."""
    chosen = {name: getattr(given, name) for name in given.model_fields_set}
    return model.description.evaluation.model_copy(update=chosen | {"figures": 0})


def evaluate(
    model: Segmenter, dataset: Dataset, names: Sequence[str], classes: ClassSet, settings: EvaluationConfig, label: str
) -> Scored:
    """The scores on the val images of a data set.

    Args:
        names: of the images.
        classes: the data set's classes, in its order. Their gamma is not used.
        settings: evaluation settings; its gamma is added to the data set's unseen classes.
        label: name of the data set, for the progress bar.

    Raises:
        DataError: an image or its labels cannot be read.
        NotFinite: a logit is NaN or infinite; the error names the image.
    """

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        sample = dataset.read("val", name)
        return decode_image(sample.image, name), sample.labels

    scored, _ = score_student(
        model.student, names, read, dataset.catalogue, classes.text_ND, settings, label, model.devices
    )
    return scored
