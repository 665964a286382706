"""Checks whether this machine can write to the place where MLflow keeps artifacts, before any work is done."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cliptea.errors import TrackingError

__all__ = ["require_artifacts"]

# What MLflow needs for artifacts that no server serves.
PACKAGES = {
    "s3": "boto3", "wasbs": "azure.storage.blob", "abfss": "azure.storage.filedatalake",
    "hdfs": "pyarrow", "sftp": "pysftp", "dbfs": "databricks.sdk",
}  # fmt: skip


def require_artifacts(uri: str) -> None:
    """Check that this machine can write artifacts below an address, before any work is done.

    Raises:
        TrackingError: a package for it is missing, or the folder cannot be written.
    """
    kind = urlsplit(uri).scheme  # some, such as mlflow-artifacts:/1, have no host
    if kind in ("", "file"):
        folder = Path(unquote(urlsplit(uri).path) if kind else uri)
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
