"""Sphinx builds the pages and the API reference: `make docs`."""

import re
from typing import Any

import mlflow.pyfunc  # noqa: F401 (autodoc imports with TYPE_CHECKING set, and a package below mlflow then fails)

from cliptea import __version__

project = "cliptea"
author = "the authors of cliptea"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"cliptea {release}"
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # type hints name classes without their module; two rooms have a Source

apidoc_modules = [
    {
        "path": "../components/cliptea",
        "destination": "api",
        # A script that only MLflow runs, and one that only torchrun runs.
        "exclude_patterns": ["../components/cliptea/tracking/pyfunc.py", "../components/cliptea/training/__main__.py"],
        "automodule_options": {"members", "show-inheritance"},
        "separate_modules": False,
        "max_depth": 2,
    },
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"  # docstrings write `name`, as Markdown does
napoleon_use_ivar = True

CODE = re.compile(r"(`[^`]*`)")


def literal(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: keep reStructuredText from reading marks like *, | and _ in them."""
    for number, line in enumerate(lines):
        parts = CODE.split(line)
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", literal, priority=100)  # before napoleon reads the sections
