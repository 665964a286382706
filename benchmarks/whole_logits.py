"""All logits of an image at its own size at once, as a side to measure against."""

from torch import Tensor, nn

from cliptea.segment.image_logits import ImageLogits

__all__ = ["whole_logits"]


def whole_logits(logits: ImageLogits) -> Tensor:
    """(N, H, W), what the bands of `logits` are rows of."""
    padded_Nhw = _resized(logits.small_hNw.transpose(0, 1).contiguous(), logits.padded)
    return _resized(padded_Nhw[:, : logits.fitted[0], : logits.fitted[1]], logits.size)


def _resized(maps_Nhw: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(maps_Nhw.shape[1:]) == size:
        return maps_Nhw
    return nn.functional.interpolate(maps_Nhw[None], size, mode="bilinear", align_corners=False)[0]
