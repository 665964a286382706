"""How commands name a model in MLflow's registry."""

from __future__ import annotations

import shlex
from pathlib import Path

__all__ = ["CHAMPION", "address", "predict_command"]

CHAMPION = "champion"  # the alias of the version to use


def address(model: str, version: str) -> str:
    """The address of a version, or of `CHAMPION`.

    Args:
        model: its name in the registry.
    """
    return f"models:/{model}{'@' if version == CHAMPION else '/'}{version}"


def predict_command(model: str, version: str, workdir: Path | None) -> str:
    """The command to try a version, or `CHAMPION`, with.

    Args:
        workdir: the work directory that holds the registry. None: MLFLOW_TRACKING_URI names a server with it.
    """
    home = "" if workdir is None else f" --workdir {shlex.quote(str(workdir))}"
    return f"cliptea predict PHOTOS --model {shlex.quote(address(model, version))}{home}"
