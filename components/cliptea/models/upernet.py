"""A timm encoder with UPerNet (arXiv 1807.10221), from segmentation_models_pytorch.

Output stride 4, or a quarter of the patch for a plain vision transformer.
"""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import nn

from cliptea.errors import ConfigError, refuse_system
from cliptea.models.encoder_weights import load_encoder, read_state
from cliptea.models.plain_vit import DROP_PATH, Encoder, PyramidDecoder, is_plain
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
        drop_path: rate of stochastic depth; 0 keeps the default of the encoder, or `DROP_PATH` of a plain transformer.

    Raises:
        ConfigError: the encoder has no feature maps at strides 4, 8, 16 and 32 and is no plain vision transformer, or
            it only accepts images of one size.
    """
    if is_plain(encoder):
        return _plain(channels, dropout, source, encoder, decoder_channels, drop_path)
    options = _options(encoder, drop_path)
    try:
        network = smp.UPerNet(
            f"tu-{encoder}", encoder_weights=None, decoder_channels=decoder_channels, classes=channels, **options
        )
    except Exception as error:  # timm and smp raise many kinds of errors for such an encoder
        refuse_system(error, f"cannot build timm's encoder {encoder}")
        raise _no_pyramid(encoder, f"{type(error).__name__}: {error}") from error
    features: Any = network.encoder.model
    strides = features.feature_info.reduction()
    if strides[-len(STRIDES) :] != STRIDES:
        raise _no_pyramid(encoder, f"its strides are {strides}")
    _try_size(features, encoder)
    _load(features, source, encoder, options)
    return EncoderDecoder(network.encoder, network.decoder, decoder_channels, channels, dropout, head_lr_factor=1.0)


def _plain(
    channels: int, dropout: float, source: WeightsSource | None, encoder: str, decoder_channels: int, drop_path: float
) -> EncoderDecoder:
    """As `build`, with a pyramid from the blocks of a plain vision transformer."""
    options = {"dynamic_img_size": True, "drop_path_rate": drop_path or DROP_PATH}
    features = Encoder(encoder, **options)
    _try_size(features, encoder)
    _load(features.model, source, encoder, options)
    decoder = PyramidDecoder(features.width, decoder_channels)
    return EncoderDecoder(features, decoder, decoder_channels, channels, dropout, head_lr_factor=1.0)


def _load(features: nn.Module, source: WeightsSource | None, encoder: str, options: dict[str, Any]) -> None:
    if source is not None:
        state = read_state(source, lambda tag: published(encoder, tag))
        load_encoder(features, pyramid_state(state, features, encoder, options, source), source)


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
        refuse_system(error, f"cannot try timm's encoder {encoder}")
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"timm's encoder {encoder} rejects images of {PROBE[0]}x{PROBE[1]}: {reason}",
            "an encoder for images of any size",
        ) from error
    features.train()


def _no_pyramid(encoder: str, reason: str) -> ConfigError:
    return ConfigError(
        f"timm's encoder {encoder} has no feature maps at strides 4, 8, 16 and 32: {reason}",
        "a pyramid such as that of resnet50 or convnext_tiny, or a plain transformer such as vit_small_patch14_dinov2",
    )
