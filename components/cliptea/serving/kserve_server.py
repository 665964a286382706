"""Serves the model in this folder with KServe's open inference protocol (v2): `python serve_kserve.py`.

The input is the tensor `images`, (B, H, W, 3) UINT8 RGB. The output is the tensor `masks`, (B, H, W) UINT8 positions in
the `classes` of model.json. It needs the packages in requirements.txt. `cliptea bundle --serving kserve` copies this
file.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, ModelServer  # pyright: ignore[reportMissingImports]
from kserve import Model as Served  # pyright: ignore[reportMissingImports]
from kserve.errors import InvalidInput  # pyright: ignore[reportMissingImports]
from segment import Model  # pyright: ignore[reportMissingImports]

NAME = "cliptea"


class Segmentation(Served):
    """Images -> masks."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._model = Model()
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        names = [tensor.name for tensor in payload.inputs]
        if names != ["images"]:
            raise InvalidInput(f"the inputs of the request are {names}; expected one, the tensor images")
        try:
            images_BHW3 = payload.inputs[0].as_numpy()
        except Exception as error:  # such as a shape that does not fit the data
            raise InvalidInput(f"cannot read the tensor images ({error})") from None
        shape = images_BHW3.shape
        if images_BHW3.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise InvalidInput(f"the input is {images_BHW3.dtype} {shape}; expected UINT8 (B, H, W, 3)")
        if not images_BHW3.size:
            raise InvalidInput(f"the input has the shape {shape}; expected at least one image with pixels")
        masks_BHW = np.stack([self._model.mask(image_HW3) for image_HW3 in images_BHW3])
        output = InferOutput("masks", list(masks_BHW.shape), "UINT8")
        output.set_data_from_numpy(masks_BHW, binary_data=False)
        return InferResponse(payload.id or str(uuid4()), NAME, [output])  # the protocol lets requests omit their id


if __name__ == "__main__":
    ModelServer().start([Segmentation()])
