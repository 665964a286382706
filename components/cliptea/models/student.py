"""What every student is: encoder -> decoder -> dropout -> 1x1 convolution, no upsampling.

Shape legend: B images, H, W input size, D feature channels, h, w output size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["ParameterGroup", "Student"]


class ParameterGroup(NamedTuple):
    parameters: list[nn.Parameter]
    head: bool  # learns at lr times the head's factor
    decay: bool


class Student(nn.Module):
    """A per-pixel network whose last convolution gives `channels` features.

    Args:
        encoder: images -> list of feature maps, coarser and coarser.
        decoder: that list -> (B, decoder_channels, h, w).
        decoder_channels: channels of the decoder's output.
        channels: D, the teacher's joint width.
        dropout: probability of dropping a channel before the last convolution.
        head_lr_factor: learning rate of decoder and head relative to the encoder (MMSegmentation's recipes).
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
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(decoder_channels, channels, kernel_size=1)
        self.head_lr_factor = head_lr_factor

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Dense features (B, D, h, w)."""
        return self.head(self.dropout(self.decoder(self.encoder(images_B3HW))))

    def parameter_groups(self) -> Iterator[ParameterGroup]:
        """Parameters by learning rate and weight decay; norms and other vectors of an encoder do not decay."""
        for modules, head in (([self.encoder], False), ([self.decoder, self.head], True)):
            parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
            for decay in (True, False):
                chosen = [p for p in parameters if (p.ndim > 1) is decay]
                if chosen:
                    yield ParameterGroup(chosen, head, decay)
