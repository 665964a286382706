"""A student as a function of images and class embeddings, built from operations that other runtimes support.

Shape legend: B images, H, W size; N classes; D width; h, w output size of the student, p = h w;
C channels; P pooled size.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cliptea.models.student import Projection, Student
from cliptea.segment.image_logits import resize
from cliptea.segment.normalise import normalise
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving.choices import Output

__all__ = ["MatrixProjection", "NamedNetwork", "Network", "PlainPooling"]


class Network(nn.Module):
    """Normalisation, student and product with the embeddings, on the CPU, with operations that the runtimes support."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.student = _exportable(copy.deepcopy(model.student).cpu().float())

    def forward(self, images_B3HW: Tensor, embeddings_ND: Tensor) -> Tensor:
        return resize(self.student.logits(normalise(images_B3HW), embeddings_ND), images_B3HW.shape[2:])


class NamedNetwork(nn.Module):
    """The same for fixed classes, with their gamma: logits or probabilities (B, N, H, W), or classes (B, H, W).

    Args:
        output: probabilities are the softmax of logits, and classes their argmax, both with gamma.
    """

    def __init__(self, network: Network, classes: ClassSet, output: Output) -> None:
        super().__init__()
        self.network, self.output = network, output
        self.register_buffer("text_ND", classes.text_ND.detach().cpu().float())
        self.register_buffer("gamma_N11", classes.gamma_N.detach().cpu().float()[:, None, None])

    def forward(self, images_B3HW: Tensor) -> Tensor:
        logits_BNHW = self.network(images_B3HW, self.text_ND) + self.gamma_N11
        if self.output == "probabilities":
            return logits_BNHW.softmax(1)
        return logits_BNHW.argmax(1).to(torch.uint8) if self.output == "classes" else logits_BNHW


class PlainPooling(nn.Module):
    """nn.AdaptiveAvgPool2d as two matrix products, because ONNX does not support it for inputs of unknown size."""

    def __init__(self, pooled: int) -> None:
        super().__init__()
        self.pooled = pooled

    def forward(self, x_BChw: Tensor) -> Tensor:
        return self._means(x_BChw.shape[2]) @ x_BChw @ self._means(x_BChw.shape[3]).T

    def _means(self, length: int) -> Tensor:
        """(P, length): row p is the mean from floor(p length / P) to ceil((p + 1) length / P), exclusive."""
        bin_P1, place_1L = torch.arange(self.pooled)[:, None], torch.arange(length)[None]
        starts, ends = bin_P1 * length // self.pooled, -(-(bin_P1 + 1) * length // self.pooled)
        inside = ((place_1L >= starts) & (place_1L < ends)).float()
        return inside / inside.sum(1, keepdim=True)


class MatrixProjection(nn.Module):
    """`Projection` as a matrix product, because OpenVINO has no convolution with an unknown number of outputs."""

    def forward(self, maps_BChw: Tensor, weight_NC: Tensor, bias_N: Tensor) -> Tensor:
        products_BNp = weight_NC @ maps_BChw.flatten(2) + bias_N[:, None]
        return products_BNp.unflatten(2, maps_BChw.shape[2:])


def _exportable(student: Student) -> Student:
    for parent in list(student.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                setattr(parent, name, PlainPooling(child.output_size))
            if isinstance(child, Projection):
                setattr(parent, name, MatrixProjection())
    return student
