"""All logits of an image at its own size at once, as a side to measure against."""

from torch import Tensor, nn

from cliptea.segment.image_logits import ImageLogits

__all__ = ["whole_logits"]


def whole_logits(logits: ImageLogits) -> Tensor:
    """(N, H, W), what the groups of `logits` are parts of."""
    maps_1Nhw = logits.small_Nhw[None]
    for size, (height, width) in ((logits.padded, logits.fitted), (logits.size, logits.size)):
        maps_1Nhw = nn.functional.interpolate(maps_1Nhw, size, mode="bilinear", align_corners=False)
        maps_1Nhw = maps_1Nhw[:, :, :height, :width]
    return maps_1Nhw[0]
