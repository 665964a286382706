"""Plain vision transformers of timm, such as DINOv2 and DINOv3, and a feature pyramid from their blocks.

All blocks of such an encoder have one grid of patches. As in MMSegmentation's UPerNet for BEiT and MAE (its
Feature2Pyramid), the outputs of four evenly spaced blocks are scaled to four, two, one and half times this grid.
(ViTDet, arXiv 2203.16527, makes such a pyramid from the last block alone.)

Shape legend: B images, H, W input size, E width of the encoder, C decoder channels, g patches along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from timm.models import model_entrypoint
from torch import Tensor, nn
from torch.nn.functional import interpolate

__all__ = ["DROP_PATH", "Encoder", "PyramidDecoder", "is_plain"]

MODULES = {"timm.models.vision_transformer", "timm.models.eva", "timm.models.deit"}
LEVELS = 4
DROP_PATH = 0.1  # of the last block, as in MMSegmentation's BEiT and MAE


def is_plain(encoder: str) -> bool:
    """Whether an encoder of timm is a plain vision transformer. It is not built for this."""
    return model_entrypoint(encoder).__module__ in MODULES


class Encoder(nn.Module):
    """Images (B, 3, H, W) -> four maps (B, E, g, g), from early to late blocks.

    Images whose height or width is no multiple of the patch size are enlarged to the next one, so that a map always
    covers the image exactly. Position embeddings are resized to the grid of the image.
    """

    def __init__(self, encoder: str, **options: Any) -> None:
        super().__init__()
        self.model: Any = timm.create_model(encoder, **options)
        depth = len(self.model.blocks)
        places = [depth * level // LEVELS - 1 for level in range(1, LEVELS + 1)]
        self.places = self.model.prune_intermediate_layers(places, prune_norm=True)
        self.patch: tuple[int, int] = self.model.patch_embed.patch_size
        self.width: int = self.model.embed_dim

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        size = [-(-edge // patch) * patch for edge, patch in zip(images_B3HW.shape[2:], self.patch, strict=True)]
        if size != list(images_B3HW.shape[2:]):
            images_B3HW = interpolate(images_B3HW, size, mode="bilinear", align_corners=False)
        return self.model.forward_intermediates(images_B3HW, indices=self.places, intermediates_only=True)


class PyramidDecoder(nn.Module):
    """UPerNet over a pyramid from maps of equal size. Its output has four times the size of these maps.

    Args:
        width: E, channels of the maps.
        channels: C.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList([
            nn.Sequential(_doubled(width), nn.BatchNorm2d(width), nn.GELU(), _doubled(width)),
            _doubled(width),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        ])  # fmt: skip
        self.upernet = UPerNetDecoder((0, 0, *[width] * LEVELS), decoder_channels=channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, 4 g, 4 g)."""
        levels = [scale(map_BEgg) for scale, map_BEgg in zip(self.scales, maps, strict=True)]
        return self.upernet([None, None, *levels])  # it skips maps at the strides 1 and 2


def _doubled(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
