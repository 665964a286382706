"""SegNeXt (arXiv 2209.08575): MSCAN and a Hamburger. Output stride 8."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cliptea.models.encoder_weights import from_url, load_encoder, read_state
from cliptea.models.hamburger import LightHam
from cliptea.models.mscan import MSCAN
from cliptea.models.student import EncoderDecoder
from cliptea.weights_source import WeightsSource

__all__ = ["build"]

WEIGHTS = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segnext/"
MLP_RATIOS = (8, 8, 4, 4)
RANK = 16  # for all sizes, as in MMSegmentation


class Size(NamedTuple):
    """A size from the paper. `channels` is the width of the decoder."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    drop_path: float
    channels: int
    weights: str  # file of the encoder's published weights; its name ends with the start of its SHA-256


SIZES = {
    "t": Size((32, 64, 160, 256), (3, 3, 5, 2), 0.1, 256, "mscan_t_20230227-119e8c9f.pth"),
    "s": Size((64, 128, 320, 512), (2, 2, 4, 2), 0.1, 256, "mscan_s_20230227-f33ccdf2.pth"),
    "b": Size((64, 128, 320, 512), (3, 3, 12, 3), 0.1, 512, "mscan_b_20230227-3ab7d230.pth"),
    "l": Size((64, 128, 320, 512), (3, 5, 27, 3), 0.3, 1024, "mscan_l_20230227-cef260d4.pth"),
}


def build(channels: int, dropout: float, source: WeightsSource | None, size: str) -> EncoderDecoder:
    """Create a SegNeXt of one size.

    Args:
        source: file or tag of the encoder's weights, in the original layout or that of OpenMMLab.
        size: t, s, b or l.
    """
    chosen = SIZES[size]
    encoder = MSCAN(chosen.dims, chosen.depths, MLP_RATIOS, chosen.drop_path)
    if source is not None:
        load_encoder(encoder, _named_as_ours(read_state(source, lambda _: _published(chosen.weights))), source)
    decoder = LightHam(chosen.dims, chosen.channels, RANK)
    return EncoderDecoder(encoder, decoder, chosen.channels, channels, dropout, head_lr_factor=10.0)


def _published(file: str) -> dict[str, Tensor]:
    return from_url(WEIGHTS + file)


def _named_as_ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the classifier, and the additional wrapper of the original around depthwise convolutions."""
    return {k.replace(".dwconv.dwconv.", ".dwconv."): v for k, v in state.items() if not k.startswith("head.")}
