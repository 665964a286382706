"""SegFormer (arXiv 2105.15203), from segmentation_models_pytorch. Output stride 4."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import encoders
from timm.models import load_state_dict_from_hf

from cliptea.models.encoder_weights import download, load_encoder, read_state
from cliptea.models.student import EncoderDecoder
from cliptea.weights_source import WeightsSource

__all__ = ["build"]


def build(
    channels: int, dropout: float, source: WeightsSource | None, encoder: str, decoder_channels: int
) -> EncoderDecoder:
    """SegFormer with a Mix Transformer.

    Args:
        source: file or tag of the encoder's weights, in the layout of NVIDIA's checkpoints.
        encoder: mit_b0 ... mit_b5.
        decoder_channels: width of the MLP decoder; 256 for all sizes in MMSegmentation.
    """
    network = smp.Segformer(
        encoder,
        encoder_weights=None,
        classes=channels,
        decoder_segmentation_channels=decoder_channels,
    )
    if source is not None:
        state = read_state(source, lambda tag: _published(encoder, tag))
        load_encoder(network.encoder, {k: v for k, v in state.items() if not k.startswith("head.")}, source)
    return EncoderDecoder(network.encoder, network.decoder, decoder_channels, channels, dropout, head_lr_factor=10.0)


def _published(encoder: str, tag: str) -> dict:
    origin = encoders[encoder]["pretrained_settings"][tag]
    repository = f"{origin['repo_id']}@{origin['revision']}"
    return download(f"model.safetensors of {origin['repo_id']}", lambda: load_state_dict_from_hf(repository))
