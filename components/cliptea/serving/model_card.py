"""The model card of a bundle. What the model does not know is said to be unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from cliptea.data.colours import class_colour
from cliptea.evaluation.results import SCORE_NAMES
from cliptea.messages import number_of, printable
from cliptea.segment.model_files import Description
from cliptea.segment.segmenter import ClassSet
from cliptea.serving.classes import text_digests
from cliptea.serving.export import Exported
from cliptea.serving.score_file import Measurement
from cliptea.serving.scores import other_settings
from cliptea.teacher.templates import list_templates

__all__ = ["model_card"]

UNKNOWN = "unknown"
MARKDOWN = re.compile(r"([\\`*\[\]|<>&~]|(?<![^\W_])_|_(?![^\W_]))")  # an underscore within a word means itself
NO_LICENCE = "unknown; there is none if training started from random weights"

# Licences that timm states and the Hugging Face hub knows by the same name.
HUB_LICENCES = {"apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "mit"}
METADATA = """\
---
license: {licence}
pipeline_tag: image-segmentation
library_name: onnx
tags:
- cliptea
- onnx
- semantic-segmentation
---"""

USE = """\
    pip install -r requirements.txt
    python segment.py photo.jpg folder_with_photos -o segmented

This writes masks, whose pixel values are the ids below, and overlays. In Python:

```python
from pathlib import Path
from segment import Model, read_image

model = Model()
mask = model.mask(read_image(Path("photo.jpg")))  # (H, W) uint8 ids
```
"""

LIMITS = """\
- Each pixel gets one of the classes above, even where the image shows something else. There is no class for the rest.
- Classes without masks in training are recognised by their names alone, and usually less well than the others.
- Images that differ from those of the training data may be segmented badly. The network does not notice that.
- The scores, if there are any, hold for their data set only. Measure with images of your own before you rely on it.
"""


def model_card(
    description: Description,
    classes: ClassSet,
    exported: Exported,
    scores: Measurement | None,
    made: Mapping[str, str],
) -> str:
    """The text of README.md, which begins with the metadata that the Hugging Face hub reads.

    Args:
        scores: what `cliptea evaluate` has written.
        made: facts about where the model and the bundle come from, by their names.
    """
    measured, fixed = exported.measured, exported.fixed
    differing = _differences(scores, description, classes, fixed) if scores else []
    agreement = (
        f"Compared with PyTorch on random images, the ONNX file's logits differ by at most "
        f"{exported.parity.difference:.1e}, and {exported.parity.equal:.2%} of pixels have the same class. "
        f"An input of {measured.size[0]}x{measured.size[1]} takes {measured.milliseconds:.1f} ms with onnxruntime and "
        f"{measured.torch_milliseconds:.1f} ms with PyTorch, on {number_of(measured.threads, 'thread')} of the "
        f"machine that made this folder ({measured.processor})."
    )
    if fixed:
        agreement += (
            f" The network only takes images of {fixed[0]}x{fixed[1]}. segment.py fits them into this size, so the "
            "masks differ from those of `cliptea predict`."
        )
    parts = [
        METADATA.format(licence=hub_licence(description.licence)),
        "# Model card",
        "A network that gives each pixel of an image one of the classes below. It was made by cliptea, which distils "
        "CLIP into networks for segmentation.",
        "## Use",
        USE.rstrip(),
        "## Classes",
        _table(("id", "class", "in training", "IoU", "colour"), _classes(description, classes, scores, differing)),
        "## Scores",
        _scores(scores, differing),
        "## Origin",
        _table(("fact", ""), _origin(description, classes, made)),
        "## This file and PyTorch",
        agreement,
        "## Limits",
        LIMITS.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def hub_licence(licence: str) -> str:
    """The hub's name for the licence of the weights that training started from."""
    if not licence:
        return "unknown"
    return licence.lower() if licence.lower() in HUB_LICENCES else "other"


def _classes(
    description: Description, classes: ClassSet, scores: Measurement | None, differing: Sequence[str]
) -> Iterable[list[str]]:
    per_class = scores.per_class if scores and not differing else {}
    for number, name in enumerate(classes.names):
        if name in description.unseen:
            trained = "unseen: without masks"
        elif name in description.classes:
            trained = "seen: with masks"
        else:
            trained = "in an earlier training" if name in description.learned_before else "new: not named"
        iou = _percent(per_class[name]) if name in per_class else UNKNOWN
        yield [str(number), name, trained, iou, class_colour(number)]


def _differences(
    scores: Measurement, description: Description, classes: ClassSet, fixed: tuple[int, int] | None
) -> list[str]:
    """How the measurement differs from what this folder does, one sentence for each difference."""
    found = []
    if {*scores.per_class} != {*classes.names}:
        listed = ", ".join(map(_cell, scores.per_class))
        found.append(f"This was measured with other classes than those above: each pixel got one of {listed}.")
    else:
        raised = {name: scores.evaluation.gamma if name in scores.unseen else 0.0 for name in classes.names}
        own = dict(zip(classes.names, classes.gamma_N.tolist(), strict=True))
        if not all(math.isclose(raised[name], own[name], rel_tol=1e-6) for name in classes.names):  # own is float32
            found.append(f"Gamma was {_gammas(raised)}; here it is {_gammas(own)}.")
        digests = text_digests(classes)
        if others := [_cell(name) for name in classes.names if scores.text_sha256.get(name) != digests[name]]:
            found.append(f"The text embeddings of {', '.join(others)} were different.")
    own_settings = description.evaluation.model_copy(update={"precision": "float32"})
    for name, values in other_settings(scores.evaluation, own_settings).items():
        if name != "gamma":
            here = "" if values["own"] is None else f"; here it is {values['own']}"
            found.append(f"The {name} of the evaluation was {values['used']}{here}.")
    if fixed:
        found.append(f"Images were not fitted into {fixed[0]}x{fixed[1]}, as segment.py does.")
    return found


def _gammas(by_class: Mapping[str, float]) -> str:
    """Such as "0.5 for cow, zebra"."""
    raised = {name: gamma for name, gamma in by_class.items() if gamma}
    return f"{max(raised.values(), key=abs):g} for {', '.join(map(_cell, raised))}" if raised else "0"


def _scores(scores: Measurement | None, differing: Sequence[str]) -> str:
    if scores is None:
        return "Unknown. `cliptea evaluate` measures them, and `cliptea bundle --scores FILE` puts them here."
    numbers = ", ".join(f"{shown} {_percent(getattr(scores.scores, name))}" for name, shown in SCORE_NAMES.items())
    told = [
        f"On {number_of(scores.images, 'val image')} of {_cell(scores.dataset)}, with a gamma of "
        f"{scores.evaluation.gamma:g}: {numbers}. The unseen classes were {', '.join(map(_cell, scores.unseen))}."
    ]
    if scores.unseen_with_masks:
        told.append(f"Of these, training had masks of {', '.join(map(_cell, scores.unseen_with_masks))}.")
    if not differing:
        return " ".join([*told, "The table above shows the IoU of each class."])
    return " ".join([*told, *differing, "So the masks of this folder differ, and their scores are unknown."])


def _origin(description: Description, classes: ClassSet, made: Mapping[str, str]) -> Iterable[list[str]]:
    teacher = description.teacher
    yield ["network", description.backbone]
    yield ["training data", description.dataset or UNKNOWN]
    for fact, told in (("cliptea.version", "cliptea"), ("git.commit", "commit of cliptea")):
        yield [f"{told} that trained it", description.origin.get(fact, UNKNOWN)]
    yield ["classes with masks in training", ", ".join(n for n in description.classes if n not in description.unseen)]
    yield ["classes without masks in training", ", ".join(description.unseen) or "none"]
    if description.learned_before:
        yield ["further classes, of the models that training started from", ", ".join(description.learned_before)]
    knew = "yes" if description.setting == "transductive" else "no"
    yield ["whether training knew the names of unseen classes", f"{knew} (the {description.setting} setting)"]
    yield ["licence of the weights that training started from", description.licence or NO_LICENCE]
    yield ["CLIP that taught it", f"{teacher.model}, {teacher.weights or UNKNOWN}" if teacher else UNKNOWN]
    yield ["prompts", ", ".join(list_templates(teacher.templates)) if teacher else UNKNOWN]
    yield [
        "gamma, which is added to the logits of unseen classes",
        f"{float(max(classes.gamma_N.tolist(), key=abs)):g}",
    ]
    for fact, value in made.items():
        yield [fact, value or UNKNOWN]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """The text, escaped so that Markdown does not read links, pictures, emphasis or the end of a cell into it."""
    return MARKDOWN.sub(r"\\\1", printable(text))


def _percent(value: float | None) -> str:
    return "no pixels" if value is None else f"{value:.1%}"
