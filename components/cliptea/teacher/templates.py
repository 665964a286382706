"""Prompts for the names of classes. This module does not import torch.

They follow ZegCLIP, because the paper does not specify any: one prompt, or 15 of them. They can also be the user's own.
"""

from __future__ import annotations

from cliptea.config import Templates

__all__ = ["TEMPLATES", "list_templates"]

SIZES = ("", "small ", "medium ", "large ")
TEMPLATES: dict[str, list[str]] = {
    "single": ["a photo of a {}"],
    "multi": [f"a photo of a {size}{{}}." for size in SIZES]
    + [f"This is a photo of a {size}{{}}." for size in SIZES]
    + ["a {} in the scene.", "a photo of a {} in the scene."]
    + [f"There is {article} {{}} in the scene." for article in ("a", "the")]
    + [f"This is {article} {{}} in the scene." for article in ("a", "the", "one")],
}


def list_templates(templates: Templates) -> list[str]:
    """The prompts of a setting `templates`, with {} in place of the name."""
    return TEMPLATES[templates] if isinstance(templates, str) else templates
