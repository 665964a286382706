"""pipeline/cliptea.yaml: the compiled pipeline, which is committed with its sources and included in the package."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cliptea import __version__
from cliptea.errors import ClipteaError, ConfigError
from cliptea.storage.local_files import write_file
from cliptea_pipeline.own_files import require_own, starts_with

if TYPE_CHECKING:
    from cliptea_pipeline.placement import Placement

__all__ = ["check_pipeline", "compile_pipeline", "pipeline_file"]

FILE = "cliptea.yaml"
HEAD = b"# PIPELINE DEFINITION\n# Name: cliptea\n"  # how kfp begins the file; it writes the name of any pipeline
# As container engines read them: a host with a port, a path in lower case, a tag, a digest.
PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?:{PART}(?::\d+)?/)?{PART}(?:/{PART})*(?::(?P<tag>\w[\w.-]{{0,127}}))?(?P<digest>@sha256:[0-9a-f]{{64}})?"
)


def pipeline_file() -> Path:
    """The compiled pipeline in the installed package, or next to the sources."""
    package = Path(str(resources.files("cliptea_pipeline")))
    candidates = [package / FILE, package.parent / FILE]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ClipteaError(f"{candidates[-1]} is missing", todo="run `cliptea compile`")


def compile_pipeline(placement: Placement | None = None, output: Path | None = None) -> Path:
    """Write the compiled pipeline. The same sources always give the same text.

    Args:
        placement: image, resources and so on of the steps; defaults to that of the committed file.
        output: file to write; defaults to the committed file, or without sources to `cliptea.yaml` in this folder.

    Raises:
        ConfigError: the name of the image is invalid, has neither a digest nor a tag, or has the tag latest; or the
            file exists and is not this pipeline.
        StorageError: the file cannot be written.
    """
    target = output or _default_file()
    require_own(target, starts_with(HEAD, len(HEAD)), "a compiled pipeline of cliptea")
    write_file(target, _compiled(placement).encode())
    return target


def check_pipeline(placement: Placement | None = None, output: Path | None = None) -> Path:
    """Check that the committed file, or another one, matches the sources.

    Raises:
        ClipteaError: it is missing or stale.
    """
    target = output or _default_file()
    committed = target.read_text(encoding="utf-8") if target.is_file() else ""
    if committed != _compiled(placement):
        raise ClipteaError(
            f"{target} is stale", "what the sources compile to", "run `cliptea compile` and commit the file"
        )
    return target


def _default_file() -> Path:
    beside = Path(__file__).resolve().parent.parent
    return beside / FILE if beside.name == "pipeline" else Path(FILE)  # never into an installed package


def _compiled(placement: Placement | None) -> str:
    from kfp import compiler

    from cliptea_pipeline.dag import cliptea_pipeline
    from cliptea_pipeline.placement import Placement

    chosen = placement or Placement()
    _require_pinned(chosen.image)

    def text() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            compiler.Compiler().compile(cliptea_pipeline(chosen), str(path))
            return path.read_text(encoding="utf-8")

    # For whatever is set on a task, kfp reads the sources of all its callers. A thread has few of them.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(text).result()


def _require_pinned(image: str) -> None:
    # The name of the image identifies the version of the code. A tag that moves would mix outputs of two versions.
    found = REFERENCE.fullmatch(image)
    if found is None:
        what = "is not a valid image name"
    elif found["digest"] or found["tag"] not in (None, "latest"):
        return
    else:
        what = "has the tag latest, which moves" if found["tag"] else "has no tag"
    raise ConfigError(
        f"the image {image!r} {what}",
        f"host/path in lower case with a tag that never moves, for example host/cliptea:{__version__}, or "
        "with @sha256: and its 64 digits",
    )
