"""Checks whether this machine can write to the place where MLflow keeps artifacts, before any work is done."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cliptea.errors import TrackingError
from cliptea.tracking.address import tracking_address
from cliptea.tracking.database import artifact_folder, database_file, in_workdir

__all__ = ["require_artifacts"]

# What MLflow needs for artifacts that no server serves.
PACKAGES = {
    "s3": "boto3", "wasbs": "azure.storage.blob", "abfss": "azure.storage.filedatalake",
    "hdfs": "pyarrow", "sftp": "pysftp", "dbfs": "databricks.sdk",
}  # fmt: skip


def require_artifacts(uri: str) -> None:
    """Check that this machine can write artifacts below an address, before any work is done.

    Raises:
        TrackingError: a package for it is missing, the folder cannot be written, or the database of a work directory,
            which may be somebody else's, names a folder elsewhere.
    """
    kind = urlsplit(uri).scheme  # some, such as mlflow-artifacts:/1, have no host
    if kind in ("", "file"):
        folder = Path(unquote(urlsplit(uri).path) if kind else uri)
        _require_inside(folder)
        there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        if not os.access(there, os.W_OK):
            raise TrackingError(
                f"MLflow keeps artifacts in {folder}, which this user cannot write",
                todo="correct its permissions, or use an MLflow server that serves artifacts",
            )
        return
    if kind == "gs" and not _google_credentials():
        raise TrackingError(
            f"MLflow keeps artifacts at {uri}, and there are no credentials for it here",
            "an MLflow server that serves artifacts (--serve-artifacts), or credentials of Google",
            "set GOOGLE_APPLICATION_CREDENTIALS, or start the server with another --default-artifact-root",
        )
    needed = PACKAGES.get(kind, "")
    if needed and not _installed(needed):
        raise TrackingError(
            f"MLflow keeps artifacts at {uri}, and the Python package {needed} for {kind}: is not installed here",
            "an MLflow server that serves artifacts (--serve-artifacts), or that package",
            "install the package, or start the server with another --default-artifact-root",
        )


def _require_inside(folder: Path) -> None:
    """A work directory of somebody else may name any folder, whose files the artifacts would replace."""
    file = database_file(tracking_address())
    if file is None or not in_workdir(file):
        return
    own = artifact_folder(file)
    if not folder.resolve().is_relative_to(own.resolve()):
        raise TrackingError(
            f"the database {file} of a work directory keeps artifacts in {folder}, outside of it",
            f"a folder in {own}",
            "use a new work directory, or an MLflow of your own in MLFLOW_TRACKING_URI",
        )


def _google_credentials() -> bool:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        google.auth.default()
    except GoogleAuthError:
        return False
    return True


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
