"""Pipelines as `cliptea compile` makes them of placements. Each takes half a second, and is made once."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from cliptea_pipeline.compile import compile_pipeline
from cliptea_pipeline.placement_file import read_placement

__all__ = ["compiled_text"]


def compiled_text(placement: dict[str, object]) -> str:
    """The text of the pipeline for what a placement file says.

    Raises:
        ClipteaError: the placement is refused.
    """
    return _compiled(json.dumps(placement))


@cache
def _compiled(placement: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "placement.yaml", Path(folder) / "p.yaml"
        file.write_text(placement)
        compile_pipeline(read_placement(file), output)
        return output.read_text(encoding="utf-8")
