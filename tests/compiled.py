"""Pipelines that `cliptea compile` makes of placements. Each takes half a second, and is made once."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from typer.testing import CliRunner

from cliptea_pipeline.cli import app

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
        ended = CliRunner().invoke(app, ["compile", "--placement", str(file), "-o", str(output), "--debug"])
        if ended.exception and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        assert ended.exit_code == 0, ended.output
        return output.read_text(encoding="utf-8")
