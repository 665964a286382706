"""SegFormer (arXiv 2105.15203), from segmentation_models_pytorch. Output stride 4.

Shape legend: B images, H, W input size; C width of the decoder or of tokens, D of a level; h, w output size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, scaled_dot_product_attention

from cliptea.models.encoder_weights import from_hub, load_encoder, read_state
from cliptea.models.student import EncoderDecoder
from cliptea.weights_source import WeightsSource

__all__ = ["Decoder", "build"]


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
    for module in network.encoder.modules():
        if isinstance(module, Attention):
            module.__class__ = FusedAttention
        if isinstance(module, DWConv):
            module.__class__ = TokensConv
    decoder = Decoder(network.decoder)
    return EncoderDecoder(network.encoder, decoder, decoder_channels, channels, dropout, head_lr_factor=10.0)


class FusedAttention(Attention):
    """Attention of a Mix Transformer, which at test time never holds the weights between all tokens.

    X tokens of the image, Y tokens that they attend to; M heads of width E.
    """

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.training:
            return super().forward(x, height, width)
        query_BMXE = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        reduced_BYC = x
        if self.sr_ratio > 1:
            reduced_BYC = self.norm(self.sr(_as_map(x, height)).flatten(2).transpose(1, 2))
        both_BY2ME = self.kv(reduced_BYC).unflatten(2, (2, self.num_heads, -1))
        key_BMYE, value_BMYE = both_BY2ME.permute(2, 0, 3, 1, 4)
        attended_BMXE = scaled_dot_product_attention(query_BMXE, key_BMYE, value_BMYE, scale=self.scale)
        return self.proj(attended_BMXE.transpose(1, 2).flatten(2))


class TokensConv(DWConv):
    """The depthwise convolution between the layers of an MLP."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return self.dwconv(_as_map(x, height)).flatten(2).transpose(1, 2)


def _as_map(tokens_BXC: Tensor, height: int) -> Tensor:
    """(B, C, height, width), with the channels of a pixel side by side.

    `permute` keeps the stride of the batch. `view` gives a single image another one, and PyTorch then copies the map
    and takes a convolution that is several times as slow.
    """
    return tokens_BXC.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


class Decoder(nn.Module):
    """SegFormer's MLP decoder, with each level projected at its own size.

    The paper's linear layers, bilinear upsampling and 1x1 convolution over the concatenated levels are all linear, and
    upsampling commutes with what mixes channels alone. So a level's linear layer and its slice of the convolution are
    one small matrix, and the levels are added after upsampling: nothing is concatenated at the largest size. At test
    time, batch norm is linear as well and becomes part of these matrices.

    Args:
        decoder: that of segmentation_models_pytorch, whose parts and names it keeps.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.mlp_stage, self.fuse_stage = decoder.mlp_stage, decoder.fuse_stage

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w) at stride 4 from the image and the encoder's maps, the last four at strides 4 to 32."""
        size = [edge // 4 for edge in maps[0].shape[2:]]
        fuse, norm, activation = self.fuse_stage
        weight_CX, shift_C, total_BChw = fuse.weight[:, :, 0, 0], 0, None
        if not self.training:
            scale_C, shift_C = _as_scale_and_shift(norm)
            weight_CX = scale_C[:, None] * weight_CX
        slices = weight_CX.chunk(len(self.mlp_stage), dim=1)
        used = maps[-len(slices) :]
        if not self.training:  # pixels with their channels side by side are upsampled several times as fast
            used = [map_BDhw.to(memory_format=torch.channels_last) for map_BDhw in used]
        for stage, weight_CC, map_BDhw in zip(self.mlp_stage, slices, reversed(used), strict=True):
            weight_CD, bias_C = weight_CC @ stage.linear.weight, weight_CC @ stage.linear.bias + shift_C
            level = conv2d(map_BDhw, weight_CD[:, :, None, None], bias_C)
            level = interpolate(level, size, mode="bilinear", align_corners=False)
            total_BChw, shift_C = (level, 0) if total_BChw is None else (total_BChw.add_(level), 0)
        return activation(norm(total_BChw) if self.training else total_BChw)


def _as_scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel that a batch norm applies at test time."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale_C, norm.bias - norm.running_mean * scale_C


def _published(encoder: str, tag: str) -> dict:
    origin = encoders[encoder]["pretrained_settings"][tag]
    return from_hub(f"{origin['repo_id']}@{origin['revision']}")
