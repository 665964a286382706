"""A network without batch norms and dropout, so that an image's features depend on no other image: stride 2."""

from torch import Tensor, nn

BACKBONE = "plain_network:build"


class _ChannelNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def build(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 4, 2, padding=1), _ChannelNorm(12), nn.GELU(), nn.Conv2d(12, channels, 3, padding=1)
    )  # fmt: skip
