"""Text features: the classifiers of seen classes in training and of all classes at test time.

Prompts follow ZegCLIP, since the paper names none: one prompt, or the mean of 15 normalised prompt features,
normalised again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cliptea.teacher.clip import Teacher

__all__ = ["TEMPLATES", "text_features"]

SIZES = ("", "small ", "medium ", "large ")
TEMPLATES: dict[str, list[str]] = {
    "single": ["a photo of a {}"],
    "multi": [f"a photo of a {size}{{}}." for size in SIZES]
    + [f"This is a photo of a {size}{{}}." for size in SIZES]
    + ["a {} in the scene.", "a photo of a {} in the scene."]
    + [f"There is {article} {{}} in the scene." for article in ("a", "the")]
    + [f"This is {article} {{}} in the scene." for article in ("a", "the", "one")],
}


def text_features(teacher: Teacher, names: Sequence[str], templates: str) -> Tensor:
    """(K, D) float32 unit-norm features of class names."""
    rows = []
    for name in names:
        features_TD = teacher.encode_text([template.format(name) for template in TEMPLATES[templates]])
        rows.append(torch.nn.functional.normalize(features_TD.mean(0), dim=0))
    return torch.stack(rows)
