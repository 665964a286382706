"""The JSON file beside an exported model: what its input and output are, and how to get masks from it."""

from __future__ import annotations

from typing import Any

from cliptea.config import EvaluationConfig
from cliptea.data.colours import palette
from cliptea.segment.normalise import IMAGE_MEAN
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving.choices import Output
from cliptea.teacher.templates import list_templates

__all__ = ["export_facts", "mask_recipe"]

OUTPUTS = {
    "logits": "logits: float32 (B, N, H, W)",
    "probabilities": "probabilities: float32 (B, N, H, W)",
    "classes": "classes: uint8 (B, H, W)",
}


def export_facts(
    model: Segmenter, size: tuple[int, int] | None, classes: ClassSet | None, output: Output
) -> dict[str, Any]:
    """What the JSON file says, except for what was measured.

    Args:
        size: the only height and width that the network accepts.
        classes: the classes that the network is fixed to; None: their embeddings are an input.
    """
    description = model.description
    evaluation = description.evaluation
    facts: dict[str, Any] = {
        "inputs": "images: float32 RGB 0-255 (B, 3, H, W)",
        "output": OUTPUTS[output],
        "steps": mask_recipe(evaluation, size, output, named=classes is not None),
        "size": size,
        "divisor": evaluation.divisor,
        "scale": evaluation.scale,
        "padding": IMAGE_MEAN,
        "mode": evaluation.mode,
        "window": evaluation.window,
        "stride": evaluation.stride,
        "templates": list_templates(description.teacher.templates) if description.teacher else None,
    }
    if classes is None:
        return facts | {
            "inputs": f"{facts['inputs']}; embeddings: float32, unit norm (N, D)",
            "gamma": evaluation.gamma,
            "classes": description.classes,
            "unseen": description.unseen,
            "embeddings": model.text_ND.tolist(),
        }
    return (
        facts
        | {
            "classes": classes.names,
            "unseen": [name for name in classes.names if name in description.unseen],
            "gammas": classes.gamma_N.tolist(),  # which the network adds
            "colours": palette()[: len(classes.names)].tolist(),
        }
    )


def mask_recipe(
    evaluation: EvaluationConfig, size: tuple[int, int] | None, output: Output = "logits", named: bool = False
) -> list[str]:
    """The steps of `Segmenter.mask` in words, for use without this package and with an output at the size of the input.

    Args:
        evaluation: scale, divisor, and mode with window and stride.
        size: the only height and width that the network accepts. The steps are then an approximation. None: any size.
        output: of the network. With another one than logits, the steps are an approximation.
        named: whether the network is fixed to its classes and adds gamma itself.
    """
    if size is None:
        factor = "min(max(scale) / max(height, width), min(scale) / min(height, width))"
        padded = "the next multiples of divisor"
    else:
        factor, padded = f"min({size[0]} / height, {size[1]} / width)", f"{size[0]} x {size[1]}"
    kept = "classes[:h, :w]" if output == "classes" else f"{output}[:, :h, :w]"
    steps = [
        f"RGB, upright, 0-255, of height x width pixels. f = {factor}; h = max(1, int(height * f + 0.5)), "
        "w = max(1, int(width * f + 0.5)).",
        "If h x w differs from the size of the image, resize it like Pillow's BILINEAR, to whole numbers 0-255.",
        f"As float32 (3, h, w), pad at the bottom and at the right with the colour `padding` up to {padded}.",
        f"Run the network; keep {kept} of the image.",
        f"Resize the {output} to height x width, bilinear, with pixel centres at half-integers and no antialiasing "
        "(torch's interpolate with align_corners=False, OpenCV's INTER_LINEAR).",
        "The class of a pixel is the argmax, an index into `classes`."
        if named
        else "Add gamma to the logits of the classes in `unseen`. The class of a pixel is the argmax, an index into "
        "`classes`.",
    ]
    if evaluation.mode == "slide":
        steps[3] = (
            f"Do this for windows of {evaluation.window} pixels every {evaluation.stride}, each padded separately, "
            "with the last one of a row or column moved back to end at the image border; "
            + ("keep the class of the last window." if output == "classes" else f"average overlapping {output}.")
        )
    if output == "classes":
        steps[4:] = ["Resize the classes to height x width like Pillow's NEAREST. They are indices into `classes`."]
    return steps
