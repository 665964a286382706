"""The script that MLflow runs to load a model ("models from code"). No other module imports it.

It imports this package from the copy that the model contains; see `cliptea.tracking.model`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from cliptea.segment.segmenter import open_segmenter

BATCH = 4  # images that go through the network together


class Segmentation(PythonModel):
    """Images (B, H, W, 3) uint8 RGB -> masks (B, H, W) uint8.

    The ids in a mask are positions in the parameter `classes`. If that is empty, they are positions in the model's own
    class list, which is in the metadata of its MLmodel file.
    """

    def load_context(self, context):
        # Whoever loads a model with MLflow runs the code in it anyway, and this script is part of that code.
        self._segmenter = open_segmenter(Path(context.artifacts["student"]), allow_code=True)

    def predict(self, context, model_input: np.ndarray, params=None) -> np.ndarray:
        chosen = list((params or {}).get("classes", ()))
        classes = self._segmenter.known(chosen or None)
        parts = (model_input[start : start + BATCH] for start in range(0, len(model_input), BATCH))
        return np.stack([mask_HW for part in parts for mask_HW in self._segmenter.masks(list(part), classes)])


set_model(Segmentation())
