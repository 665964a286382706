"""Sphinx builds the pages and the API reference: `make docs`. The sources are the repository's own Markdown files."""

import re
import shutil
from pathlib import Path
from typing import Any

import mlflow.pyfunc  # noqa: F401 (autodoc imports with TYPE_CHECKING set, and a package below mlflow then fails)
from docutils import nodes
from sphinx import addnodes

from cliptea import __version__

project = "cliptea"
author = "the authors of cliptea"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "benchmarks/README.md", "benchmarks/*/README.md", "components/**/SHARDS.md"]
exclude_patterns = [".*", "dist", "tests"]
html_theme = "furo"
html_title = f"cliptea {release}"
myst_heading_anchors = 3

apidoc_modules = [
    {
        "path": "../components/cliptea",
        "destination": "docs/api",
        # Scripts that only MLflow, torchrun and model servers run.
        "exclude_patterns": [
            "../components/cliptea/tracking/pyfunc.py",
            "../components/cliptea/training/__main__.py",
            "../components/cliptea/serving/kserve_server.py",
            "../components/cliptea/serving/triton_backend.py",
        ],
        "automodule_options": {"members", "show-inheritance"},
    },
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"  # docstrings write `name`, as Markdown does
napoleon_use_ivar = True

CONTENTS = """
```{toctree}
:hidden:

docs/architecture
docs/method
docs/results
docs/data
docs/settings
docs/models
docs/shipping
docs/python
docs/cluster
docs/operations
docs/environment
docs/troubleshooting
docs/security
docs/glossary
Benchmarks <benchmarks/README>
Benchmarks on a GPU <benchmarks/h200/README>
components/cliptea/data/SHARDS
CONTRIBUTING
CHANGELOG
API reference <docs/api/modules>
```
"""
CODE = re.compile(r"(`[^`]*`)")


def add_contents(app: Any, name: str, source: list[str]) -> None:
    """Give the start page the table of contents, which a code host would show as code."""
    if name == root_doc:
        source[0] += CONTENTS


def escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: keep reStructuredText from reading marks like *, | and _ in them."""
    for number, line in enumerate(lines):
        parts = CODE.split(line)
        parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def unlink_types(app: Any, page: nodes.document) -> None:
    """Type hints lack the module of a class, and modules share names of classes: no link is better than a wrong one."""
    for reference in list(page.findall(addnodes.pending_xref)):
        if reference["refdomain"] == "py":
            reference.replace_self(reference.children)


def copy_start_page(app: Any, error: Exception | None) -> None:
    """Let a web server find the start page."""
    if error is None:
        shutil.copy(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", escape, priority=100)  # before napoleon reads the sections
    app.connect("doctree-read", unlink_types)
    app.connect("build-finished", copy_start_page)
