"""A timm encoder with UPerNet (arXiv 1807.10221), from segmentation_models_pytorch. Output stride 4."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from cliptea.errors import ConfigError
from cliptea.models.encoder_weights import load_encoder, read_state
from cliptea.models.student import EncoderDecoder
from cliptea.models.timm_weights import published, pyramid_state
from cliptea.weights_source import WeightsSource

__all__ = ["build"]

STRIDES = [4, 8, 16, 32]
PROBE = (96, 160)  # height and width that no encoder is made for, pixels


def build(
    channels: int, dropout: float, source: WeightsSource | None, encoder: str, decoder_channels: int, drop_path: float
) -> EncoderDecoder:
    """UPerNet on an encoder of timm.

    Args:
        source: file or tag of the encoder's weights, in any layout that timm reads.
        encoder: timm's name of it, without a tag.
        decoder_channels: width of the decoder.
        drop_path: rate of stochastic depth; 0 leaves the encoder's own.

    Raises:
        ConfigError: the encoder gives no feature maps at strides 4, 8, 16 and 32, or takes images of one size only.
    """
    options = _options(encoder, drop_path)
    try:
        network = smp.UPerNet(
            f"tu-{encoder}", encoder_weights=None, decoder_channels=decoder_channels, classes=channels, **options
        )
    except Exception as error:  # what timm and smp raise for such an encoder is of many kinds
        raise _no_pyramid(encoder, f"{type(error).__name__}: {error}") from error
    features: Any = network.encoder.model
    strides = features.feature_info.reduction()
    if strides[-len(STRIDES) :] != STRIDES:
        raise _no_pyramid(encoder, f"its strides are {strides}")
    _try_size(features, encoder)
    if source is not None:
        state = read_state(source, lambda tag: published(encoder, tag))
        load_encoder(features, pyramid_state(state, features, encoder, options, source), source)
    return EncoderDecoder(network.encoder, network.decoder, decoder_channels, channels, dropout, head_lr_factor=1.0)


def _options(encoder: str, drop_path: float) -> dict[str, Any]:
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    if encoder.startswith(("swin_", "swinv2_")):
        # any input size; windows keep their size and shift in every stage, as in MMSegmentation, whatever that size
        options |= {"strict_img_size": False, "always_partition": True}
    return options


def _try_size(features: nn.Module, encoder: str) -> None:
    """Refuse an encoder for images of one size here and not in the middle of training; no flag of timm tells them."""
    where = next(features.parameters()).device
    features.eval()
    try:
        with torch.no_grad():
            features(torch.zeros(1, 3, *PROBE, device=where))
    except Exception as error:  # asserts and broadcasting errors, of the encoder's own
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"timm's encoder {encoder} rejects images of {PROBE[0]}x{PROBE[1]}: {reason}",
            "an encoder for images of any size",
        ) from error
    features.train()


def _no_pyramid(encoder: str, reason: str) -> ConfigError:
    return ConfigError(
        f"timm's encoder {encoder} has no feature maps at strides 4, 8, 16 and 32: {reason}",
        "a pyramid such as that of resnet50 or convnext_tiny",
    )
