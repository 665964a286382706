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
PROBE = (96, 160)  # an unusual height and width for all encoders, pixels


def build(
    channels: int, dropout: float, source: WeightsSource | None, encoder: str, decoder_channels: int, drop_path: float
) -> EncoderDecoder:
    """UPerNet with a timm encoder.

    Args:
        source: file or tag of the encoder's weights, in any layout that timm reads.
        encoder: name of the encoder in timm, without a tag.
        drop_path: rate of stochastic depth; 0 keeps the default of the encoder.

    Raises:
        ConfigError: the encoder has no feature maps at strides 4, 8, 16 and 32, or only accepts images of one size.
    """
    options = _options(encoder, drop_path)
    try:
        network = smp.UPerNet(
            f"tu-{encoder}", encoder_weights=None, decoder_channels=decoder_channels, classes=channels, **options
        )
    except Exception as error:  # timm and smp raise many kinds of errors for such an encoder
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
        # Allow any input size. Windows then keep their size and shift in every stage, as in MMSegmentation.
        options |= {"strict_img_size": False, "always_partition": True}
    return options


def _try_size(features: nn.Module, encoder: str) -> None:
    """Check before training that the encoder accepts images of any size, because timm has no flag for this."""
    where = next(features.parameters()).device
    features.eval()
    try:
        with torch.no_grad():
            features(torch.zeros(1, 3, *PROBE, device=where))
    except Exception as error:  # the encoder raises assertion or broadcasting errors
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
