"""The structure of all students: encoder -> decoder -> dropout -> 1x1 convolution, without upsampling.

Shape legend: B images, H, W input size, D feature channels, C decoder channels, N classes, h, w output
size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from cliptea.method.losses import FeatureNorm, class_logits

__all__ = ["EncoderDecoder", "ParameterGroup", "Projection", "Student"]

# Parameters that are not factors of a product, so they have no weight decay although they are not vectors: positions
# and learned tokens of transformers.
POSITIONS = {"relative_position_bias_table", "absolute_pos_embed", "pos_embed", "cls_token", "dist_token", "reg_token"}


class ParameterGroup(NamedTuple):
    parameters: list[nn.Parameter]
    head: bool  # whether its learning rate is multiplied by the head's factor
    decay: bool


class Student(nn.Module):
    """A per-pixel network: images (B, 3, H, W) -> dense features (B, D, h, w).

    Attributes:
        feature_norm: that of `method.feature_norm` in training, which `logits` uses as well.

    Args:
        encoder: name of the part with the base learning rate, or "" for the whole network. The rest is the head.
        head_lr_factor: learning rate of the head relative to the encoder.
    """

    def __init__(self, encoder: str, head_lr_factor: float) -> None:
        super().__init__()
        self._encoder = f"{encoder}." if encoder else ""
        self.head_lr_factor = head_lr_factor
        self.feature_norm: FeatureNorm = "none"

    def logits(self, images_B3HW: Tensor, text_ND: Tensor) -> Tensor:
        """(B, N, h, w), the logits at test time.

        They are raw features times text features, or their scaled cosines if `feature_norm` says so.
        """
        if self.feature_norm == "none":
            return self.products(images_B3HW, text_ND)
        return class_logits(self(images_B3HW).float(), text_ND, feature_norm=self.feature_norm)

    def products(self, images_B3HW: Tensor, text_ND: Tensor) -> Tensor:
        """(B, N, h, w): raw features times text features."""
        return torch.einsum("bdhw,nd->bnhw", self(images_B3HW), text_ND)

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """Parameters by learning rate and weight decay (MMSegmentation's recipes).

        Norms, biases, layer scales, other vectors, positions and learned tokens have no weight decay.
        """
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        for head in (False, True):
            for decay in (True, False):
                chosen = [
                    p for name, p in named if name.startswith(self._encoder) is not head and _decays(name, p) is decay
                ]
                if chosen:
                    yield ParameterGroup(chosen, head, decay)


class Projection(nn.Module):
    """A 1x1 convolution whose weights are arguments."""

    def forward(self, maps_BChw: Tensor, weight_NC: Tensor, bias_N: Tensor) -> Tensor:
        return conv2d(maps_BChw, weight_NC[:, :, None, None], bias_N)


class EncoderDecoder(Student):
    """A student whose last convolution has `channels` output features.

    Args:
        encoder: images -> list of feature maps, from fine to coarse.
        decoder: list of feature maps -> (B, decoder_channels, h, w).
        channels: D, the teacher's joint width.
        dropout: probability of dropping a channel before the last convolution.
        head_lr_factor: learning rate of decoder and head relative to the encoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        decoder_channels: int,
        channels: int,
        dropout: float,
        head_lr_factor: float,
    ) -> None:
        super().__init__("encoder", head_lr_factor)
        self.encoder, self.decoder = encoder, decoder
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(decoder_channels, channels, kernel_size=1)
        self.projection = Projection()

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Dense features (B, D, h, w)."""
        return self.head(self.dropout(self.decoder(self.encoder(images_B3HW))))

    def products(self, images_B3HW: Tensor, text_ND: Tensor) -> Tensor:
        """The same as in `Student`, with less work.

        Both the last convolution and the product are linear, and together have N outputs instead of D.
        """
        assert self.head.bias is not None
        weight_NC, bias_N = text_ND @ self.head.weight[:, :, 0, 0], text_ND @ self.head.bias
        return self.projection(self.decoder(self.encoder(images_B3HW)), weight_NC, bias_N)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in POSITIONS
