"""A timm encoder with UPerNet (arXiv 1807.10221), from segmentation_models_pytorch. Output stride 4."""

from __future__ import annotations

import segmentation_models_pytorch as smp

from cliptea.models.student import Student

__all__ = ["build"]


def build(channels: int, dropout: float, pretrained: bool, encoder: str, decoder_channels: int) -> Student:
    network = smp.UPerNet(
        f"tu-{encoder}",
        encoder_weights="imagenet" if pretrained else None,
        decoder_channels=decoder_channels,
        classes=channels,
    )
    return Student(network.encoder, network.decoder, decoder_channels, channels, dropout, head_lr_factor=1.0)
