"""Finds MLflow's database in a work directory, and puts it in order before it is used."""

from __future__ import annotations

from pathlib import Path

from cliptea.errors import StorageError
from cliptea.tracking.address import require_server, tracking_address
from cliptea.tracking.database import DATABASE, has_moved, readdress, require_unlocked, workdir_of
from cliptea_pipeline.workdir import held, is_workdir, require_own_mlflow

__all__ = ["find_database", "require_tracking"]


def find_database(root: Path) -> Path:
    """MLflow's database in a work directory, for commands that use its models.

    Raises:
        StorageError: there is no such database, or another program holds its lock.
        ClipteaError: as for `_put_in_order`.
    """
    file = root.resolve() / DATABASE
    if not file.is_file():
        raise StorageError(
            f"the MLflow database {file} does not exist",
            "the work directory of an earlier run",
            "set --workdir, or set MLFLOW_TRACKING_URI",
        )
    require_unlocked(file)
    if is_workdir(root):
        _put_in_order(root)
    return file


def require_tracking() -> None:
    """Check that the server or the database in MLFLOW_TRACKING_URI can be used, if the variable is set.

    Raises:
        ClipteaError: as for `require_server` and, if it is the database of a work directory, `_put_in_order`.
    """
    require_server()
    if root := workdir_of(tracking_address()):
        _put_in_order(root)


def _put_in_order(root: Path) -> None:
    """Let the database of a work directory that was moved or copied name the present place of its artifacts.

    Raises:
        StorageError: the folder cannot be written.
        ClipteaError: it was moved while a run is using it.
    """
    file = root.resolve() / DATABASE
    if has_moved(file):
        require_own_mlflow(root)
        with held(root):
            readdress(file)
