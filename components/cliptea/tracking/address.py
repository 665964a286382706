"""The address of MLflow, and the error if it is not available. This module does not import MLflow, which is slow."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlparse

from cliptea.errors import ConfigError, ServerAway, StorageError, TrackingError

__all__ = ["EXPERIMENT", "MlflowAway", "require_server", "tracking_address"]

EXPERIMENT = "cliptea"  # name of the experiment for all runs
SECONDS = 10.0


class MlflowAway(TrackingError, ServerAway):
    """MLflow does not answer, or cannot be used if the error is not temporary. `reason` says why in a few words."""

    def __init__(self, reason: str, temporary: bool = True) -> None:
        uri = tracking_address()
        if temporary:
            what, expected = f"MLflow does not answer at {uri} ({reason})", "a running server"
            super().__init__(what, expected, "check MLFLOW_TRACKING_URI, or wait longer with CLIPTEA_PATIENCE")
        else:
            super().__init__(
                f"MLflow at {uri} cannot be used ({reason})",
                todo="check MLFLOW_TRACKING_URI, credentials and certificates",
            )
        self.reason, self.temporary = reason, temporary


def tracking_address() -> str:
    """The value of MLFLOW_TRACKING_URI, or "".

    Raises:
        ConfigError: the address contains a password, which MLflow's errors and the report would show.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    address = urlparse(uri)
    if address.password or (address.username and address.scheme.startswith("http")):
        raise ConfigError(
            "MLFLOW_TRACKING_URI holds a password",
            "an address without one",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return uri


def require_server() -> None:
    """Check that the server in MLFLOW_TRACKING_URI answers, if the variable contains the address of a server.

    Raises:
        ConfigError: the address contains a password.
        StorageError: the server does not answer.
    """
    uri = tracking_address()
    if not uri.startswith("http"):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS).close()
    except urllib.error.HTTPError as answer:  # the server is running; permissions are checked later
        answer.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # MLflow has its own settings for certificates
            return
        raise StorageError(
            f"MLflow does not answer at {uri} ({reason})",
            "a running server",
            "start it, or unset MLFLOW_TRACKING_URI to use the database in the work directory",
        ) from None
