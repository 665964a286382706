"""The scores of a trained model on any data set, outside of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cliptea.config import EvaluationConfig
from cliptea.data.datasets import Dataset
from cliptea.data.sample import decode_image, require_labels
from cliptea.evaluation.results import Scored
from cliptea.evaluation.scoring import score_student
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.valid_config import validated

__all__ = ["evaluate", "other_settings", "settings_of"]


def settings_of(model: Segmenter, given: Mapping[str, Any]) -> EvaluationConfig:
    """The evaluation settings that the user gives, and for all others those that the model was evaluated with.

    Args:
        given: from `cliptea.settings.given_settings`.

    Raises:
        ConfigError: they do not fit together.
    """
    own = model.description.evaluation.model_dump()
    chosen = {name: value for name, value in given.get("evaluation", {}).items() if name != "sets"}
    return validated({"evaluation": own | chosen | {"figures": 0}}).evaluation


def other_settings(used: EvaluationConfig, own: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """The settings that decide masks and differ: by name, what is `used`, and the model's `own` if it has one."""
    mine, theirs = used.deciding(), own.deciding()
    return {name: {"used": value, "own": theirs.get(name)} for name, value in mine.items() if value != theirs.get(name)}


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
        require_labels(sample, name)
        return decode_image(sample.image, name), sample.labels

    scored, _ = score_student(
        model.student, names, read, dataset.catalogue, classes.text_ND, settings, label, model.devices
    )
    return scored
