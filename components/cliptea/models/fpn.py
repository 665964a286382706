"""A small feature pyramid for very small images (the demo world). Output stride 2, 0.2 million weights."""

from __future__ import annotations

from torch import Tensor, nn

from cliptea.models.student import EncoderDecoder
from cliptea.weights_source import WeightsSource

__all__ = ["build"]


def build(channels: int, dropout: float, source: WeightsSource | None, width: int) -> EncoderDecoder:
    del source  # this network has no published weights
    return EncoderDecoder(_Encoder(width), _Decoder(width), width, channels, dropout, head_lr_factor=1.0)


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _Encoder(nn.Module):
    """Feature maps at strides 2, 4, 8 with width, width, 2 x width channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.stem = nn.Sequential(_block(3, half, 2), _block(half, width, 1))
        self.middle = nn.Sequential(_block(width, width, 2), _block(width, width, 1))
        self.deep = nn.Sequential(_block(width, 2 * width, 2))

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        fine = self.stem(images_B3HW)
        middle = self.middle(fine)
        return [fine, middle, self.deep(middle)]


class _Decoder(nn.Module):
    """Top-down sums of the encoder's maps, followed by one 3x3 block at stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(inputs, width, 1) for inputs in (width, width, 2 * width)])
        self.smooth = _block(width, width, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        merged = self.lateral[2](maps[2])
        for level in (1, 0):
            merged = self.lateral[level](maps[level]) + nn.functional.interpolate(
                merged, size=maps[level].shape[-2:], mode="bilinear", align_corners=False
            )
        return self.smooth(merged)
