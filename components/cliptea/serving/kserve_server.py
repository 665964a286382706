"""Serves the model in this folder with KServe's open inference protocol (v2): `python serve_kserve.py`.

The input is the tensor `images`, (B, H, W, 3) UINT8 RGB. The output is the tensor `masks`, (B, H, W) UINT8 positions in
the `classes` of model.json. It needs the packages in requirements.txt. `cliptea bundle --serving kserve` copies this
file.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from kserve import InferOutput, InferRequest, InferResponse, ModelServer  # pyright: ignore[reportMissingImports]
from kserve import Model as Served  # pyright: ignore[reportMissingImports]
from kserve.errors import InvalidInput  # pyright: ignore[reportMissingImports]
from segment import Model, require_images  # pyright: ignore[reportMissingImports]

NAME = "cliptea"


class Segmentation(Served):
    """Images -> masks."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._model = Model()
        self._one_request = asyncio.Lock()  # at a time; the server answers questions about its health meanwhile
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        if not isinstance(payload, InferRequest):
            raise InvalidInput("the request is of the protocol v1; expected v2: POST /v2/models/cliptea/infer")
        names = [tensor.name for tensor in payload.inputs]
        if names != ["images"]:
            raise InvalidInput(f"the inputs of the request are {names}; expected one, the tensor images")
        try:
            images_BHW3 = payload.inputs[0].as_numpy()
        except Exception as error:  # such as a shape that does not fit the data
            raise InvalidInput(f"cannot read the tensor images ({error})") from None
        try:
            require_images(images_BHW3)
        except ValueError as error:
            raise InvalidInput(str(error)) from None
        async with self._one_request:
            masks_BHW = await asyncio.to_thread(self._model.masks, images_BHW3)
        output = InferOutput("masks", list(masks_BHW.shape), "UINT8")
        output.set_data_from_numpy(masks_BHW, binary_data=False)
        return InferResponse(payload.id or str(uuid4()), NAME, [output])  # the protocol lets requests omit their id


if __name__ == "__main__":
    ModelServer().start([Segmentation()])
