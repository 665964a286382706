"""The model of this folder in Triton's Python backend, which runs it with segment.py in the folder above.

`cliptea bundle --serving triton` copies this file as 1/model.py. config.pbtxt describes the tensors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from segment import Model, require_images  # pyright: ignore[reportMissingImports]


class TritonPythonModel:
    """Images (B, H, W, 3) uint8 RGB -> masks (B, H, W) uint8 positions in the `classes` of model.json."""

    def initialize(self, args: dict[str, Any]) -> None:
        self._model = Model()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            images_BHW3 = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            require_images(images_BHW3)
            masks_BHW = self._model.masks(images_BHW3)
        except Exception as error:  # the other requests get their answers
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("masks", masks_BHW)])
