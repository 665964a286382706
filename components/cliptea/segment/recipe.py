"""Instructions in words for computing a mask with an exported network, without this package."""

from __future__ import annotations

from cliptea.config import EvaluationConfig

__all__ = ["mask_recipe"]


def mask_recipe(evaluation: EvaluationConfig, size: tuple[int, int] | None) -> list[str]:
    """The steps that `Segmenter.mask` takes, for a network with logits at the size of its input.

    Args:
        evaluation: scale, divisor, and mode with window and stride.
        size: the only height and width that the network accepts. The steps are then an approximation. None: any size.
    """
    if size is None:
        factor = "min(max(scale) / max(height, width), min(scale) / min(height, width))"
        padded = "the next multiples of divisor"
    else:
        factor, padded = f"min({size[0]} / height, {size[1]} / width)", f"{size[0]} x {size[1]}"
    steps = [
        f"RGB, upright, 0-255, of height x width pixels. f = {factor}; h = max(1, int(height * f + 0.5)), "
        "w = max(1, int(width * f + 0.5)).",
        "If h x w differs from the size of the image, resize it like Pillow's BILINEAR, to whole numbers 0-255.",
        f"As float32 (3, h, w), pad at the bottom and at the right with the colour `padding` up to {padded}.",
        "Run the network; keep logits[:, :h, :w] of the image.",
        "Resize the logits to height x width, bilinear, with pixel centres at halves and no smoothing (torch's "
        "interpolate with align_corners=False, OpenCV's INTER_LINEAR).",
        "Add gamma to the logits of the classes in `unseen`. The class of a pixel is the argmax, an index into "
        "`classes`.",
    ]
    if evaluation.mode == "slide":
        steps[3] = (
            f"Do this for windows of {evaluation.window} pixels every {evaluation.stride}, each padded separately, "
            "with the last one of a row or column moved back to end at the image border; average overlapping logits."
        )
    return steps
