"""Finds a trained model and opens it: a folder, or a model in the MLflow of a work directory or of a server."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cliptea import env
from cliptea.errors import ConfigError
from cliptea.storage.local_files import local_path
from cliptea.tracking.database import database_uri
from cliptea_pipeline.extras import require
from cliptea_pipeline.mlflow_database import find_database, require_tracking

if TYPE_CHECKING:
    from cliptea.segment.model_files import Description
    from cliptea.segment.segmenter import Segmenter

__all__ = ["exact_address", "find_tracking", "open_model"]


def open_model(
    uri: str,
    workdir: Path,
    allow_code: bool,
    where: str | None = None,
    require: Callable[[Description], None] | None = None,
) -> Segmenter:
    """The model at an address. Invalid ones are rejected before torch is imported, which takes seconds.

    Args:
        where: the device, such as cpu or cuda:1; None: all GPUs, or the CPU if there is none.
        require: raises if the model is not suitable.
    """
    store = workdir.resolve() / "store"
    if store.is_dir():  # it contains the demo's text tower
        os.environ.setdefault(env.STORE.name, store.as_uri())
    if re.fullmatch(r"models:/[^/@]+", uri):
        raise ConfigError(f"--model {uri} does not name a version", f"{uri}@champion or {uri}/VERSION")
    if re.match(r"(models|runs):/", uri):
        find_tracking(workdir)
        from cliptea.tracking.model import fetch_model

        found = fetch_model(uri)
    elif (folder := local_path("--model", uri)).is_dir():
        found = nullcontext(folder)
    else:
        raise ConfigError(
            f"--model {uri}: this folder does not exist", "models:/NAME@champion, runs:/ID/model or a folder"
        )
    with found as folder:
        if require is not None:
            from cliptea.segment.model_files import read_description

            with suppress(OSError, ValueError):  # open_segmenter refuses a damaged model
                require(read_description(folder))
        from cliptea.segment.segmenter import open_segmenter

        return open_segmenter(folder, allow_code, where)


def exact_address(uri: str, workdir: Path) -> str:
    """The address of a model with a version instead of an alias, so that it names the same model later."""
    if not re.fullmatch(r"models:/[^/@]+@[^/@]+", uri):
        return uri
    find_tracking(workdir)
    from cliptea.tracking.model import exact_version

    return exact_version(uri)


def find_tracking(workdir: Path) -> None:
    """Set the address of MLflow: the user's server, or the database of a local run."""
    require("mlflow")
    require_tracking()
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return
    os.environ["MLFLOW_TRACKING_URI"] = database_uri(find_database(workdir))
