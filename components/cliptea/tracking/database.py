"""MLflow's database in a SQLite file: its address, its first creation, and its move to another folder.

MLflow needs seconds to make the tables of a new database, and cannot continue with one whose creation was interrupted.
So a database is made under another name, and gets its own name when it is complete. This module only imports MLflow to
make one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from cliptea.errors import StorageError, TrackingError, one_line
from cliptea.storage.local_files import lock_file, make_folder, partial_name
from cliptea.storage.marks import WORKDIR, read_mark

__all__ = [
    "DATABASE", "LOCKED", "artifact_folder", "database_file", "database_path", "database_uri", "has_moved",
    "in_workdir", "leave_folders", "mlflow_command", "placeless_command", "readdress", "require_database",
    "require_unlocked", "stored_experiment_id", "unreadable", "workdir_of",
]  # fmt: skip

DATABASE = Path("mlflow", "mlflow.db")  # in a work directory
SCHEME = "sqlite:///"
OWN_TABLES = "alembic_version", "_alembic_tmp_"  # of MLflow's tool for tables; the second is a prefix
SUFFIXES = "", "-journal", "-wal", "-shm"  # of the files of a database
WAIT_SECONDS = 3.0  # for other processes that write, which mostly takes cliptea and MLflow milliseconds
# What is wrong with a file, and what to do.
LOCKED = "another program holds its lock", "close that program"
FOREIGN = "it is not an SQLite database", "correct MLFLOW_TRACKING_URI, or use another work directory"


def database_uri(file: Path) -> str:
    """The address of the database in `file`. Only what would end or change the path is escaped."""
    path = str(file.absolute()).replace("%", "%25").replace("?", "%3F")
    return SCHEME + path


def database_file(uri: str) -> Path | None:
    """The file of a database that `database_uri` or a user has named. None for servers and other databases."""
    path = database_path(uri)
    return Path(path).absolute() if path not in ("", ":memory:") else None


def workdir_of(uri: str) -> Path | None:
    """The work directory whose database `uri` names, or None."""
    file = database_file(uri)
    return file.parent.parent if file is not None and in_workdir(file) else None


def mlflow_command(uri: str) -> str:
    """What opens MLflow: a command for a database on this machine, else the address of the server."""
    if workdir := workdir_of(uri):
        return f"cliptea ui --workdir {shlex.quote(str(workdir))}"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite:") else uri


def placeless_command(uri: str) -> str:
    """As `mlflow_command`, for files that may be moved or copied together with a database on this machine."""
    if workdir_of(uri):
        return "cliptea ui --workdir WORKDIR"
    return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"' if uri.startswith("sqlite:") else uri


def database_path(uri: str) -> str:
    """The path in the address of a database in a file, as it is written there, or ""."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]*)", uri)
    return unquote(found[1]) if found else ""


def artifact_folder(file: Path) -> Path:
    """The folder for the artifacts of the database in `file`."""
    return file.absolute().parent / "artifacts"


def unreadable(file: Path) -> tuple[str, str] | None:
    """Why nobody can read the database: it is `LOCKED` for more than a moment, or `FOREIGN`; or None.

    Only SQLite itself may open the file. When a process closes a file, it loses its locks on the file, also those of a
    connection in another thread. Source: https://www.sqlite.org/howtocorrupt.html, section 2.2
    """
    try:
        with _opened(file, "rw") as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:  # other errors are reported by whoever uses the database
        name = getattr(error, "sqlite_errorname", "")
        return FOREIGN if name == "SQLITE_NOTADB" else LOCKED if name.startswith("SQLITE_BUSY") else None
    return None


def require_unlocked(file: Path) -> None:
    """Check that nobody keeps others from reading the database.

    Raises:
        StorageError: another program does, and does not stop soon.
    """
    if unreadable(file) == LOCKED:
        reason, todo = LOCKED
        raise StorageError(f"MLflow's database {file} cannot be used: {reason}", todo=todo)


def require_database(file: Path) -> None:
    """Make the database unless it exists. Processes can do this at the same time.

    In a work directory, one whose creation was interrupted is replaced, as it never held anything. Elsewhere it is
    left to MLflow, because another program may be creating it.

    Raises:
        StorageError: the folder cannot be written.
    """
    if _is_kept(file):
        return
    make_folder(file.parent)
    with lock_file(file.with_name(f".{file.name}.lock"), f"makes a database in {file.parent}"):
        if not _is_kept(file):
            _make(file)


def stored_experiment_id(file: Path, experiment: str) -> str | None:
    """The id of this experiment, or None if the database has none or cannot be read."""
    with suppress(sqlite3.Error), _opened(file, "ro") as database:
        query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
        found = database.execute(query, [experiment]).fetchone()
        return None if found is None else str(found[0])
    return None


def in_workdir(file: Path) -> bool:
    """Whether this is the database of a work directory. The folder may hold others of the user."""
    path = file.absolute()
    return path.parts[-2:] == DATABASE.parts and read_mark(path.parent.parent).get("kind") == WORKDIR


def has_moved(file: Path) -> bool:
    """Whether the database names another place than the one next to it for its artifacts."""
    return _location(file) not in (None, artifact_folder(file).as_uri())


def readdress(file: Path) -> None:
    """Update the artifact addresses in a database that was moved or copied together with its artifacts.

    MLflow stores absolute addresses, so that the database would name the artifacts in its old place.

    Raises:
        TrackingError: the database cannot be changed.
    """
    old, new = _location(file), artifact_folder(file).as_uri()
    if old is None or old == new:
        return
    try:
        with _opened(file, "rw") as database, database:
            database.execute("BEGIN IMMEDIATE")
            for table, column in _text_columns(database):
                database.execute(
                    f"UPDATE {table} SET {column} = :new || substr({column}, :length + 1) "
                    f"WHERE {column} = :old OR substr({column}, 1, :length + 1) = :old || '/'",
                    {"old": old, "new": new, "length": len(old)},
                )
    except sqlite3.Error as error:
        raise TrackingError(
            f"the database {file} was moved, and its addresses cannot be changed ({one_line(error)})",
            "a file that can be written and that no other program uses",
        ) from None


def _is_kept(file: Path) -> bool:
    """Whether the file must not be made or replaced."""
    if not in_workdir(file):
        return any(file.with_name(file.name + suffix).exists() for suffix in SUFFIXES)
    return file.exists() and not _is_half_made(file)


def _is_half_made(file: Path) -> bool:
    """Whether MLflow has begun this database, and nothing has been stored in it."""
    try:
        with _opened(file, "rw") as database:  # not "ro": SQLite must be able to undo an interrupted transaction
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if any(_holds_rows(database, table) for table in tables):
                return False  # MLflow adds the first experiment last
            version = ()
            if "alembic_version" in tables:
                version = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # damaged, or no database: MLflow says what is wrong
        return False
    return not tables or _is_mlflows(tables, *(version or ()))


def _holds_rows(database: sqlite3.Connection, table: str) -> bool:
    """Whether a table has rows, other than those that MLflow adds while it makes the tables."""
    if table == "alembic_version":
        return False
    others = "WHERE name != 'default'" if table == "workspaces" else ""
    quoted = table.replace('"', '""')
    return database.execute(f'SELECT 1 FROM "{quoted}" {others} LIMIT 1').fetchone() is not None


def _is_mlflows(tables: set[str], version: str = "") -> bool:
    """Whether MLflow, and a version of it that we know, has made all of these tables."""
    import mlflow.store.model_registry.dbmodels.models
    import mlflow.store.tracking.dbmodels.models  # noqa: F401  both add their tables to Base
    from mlflow.store import db_migrations
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking.dbmodels.initial_models import Base as Initial

    migrations = Path(*db_migrations.__path__) / "versions"
    known = not version or any(migrations.glob(f"{version}_*.py"))
    own = {name for name in tables if name.startswith(OWN_TABLES)}
    return known and "experiments" in tables and tables <= {*Base.metadata.tables, *Initial.metadata.tables, *own}


def leave_folders() -> None:
    """Keep MLflow from making the folder of a database, because it does not decode the address for that."""
    from mlflow.store.db import utils

    utils._make_parent_dirs_if_sqlite = lambda db_uri: None


def _create(file: Path, artifacts: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    leave_folders()
    SqlAlchemyStore(database_uri(file), artifacts)._dispose_engine()


def _make(file: Path) -> None:
    digits = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:32]  # the next process finds what a killed one leaves
    aside = file.with_name(partial_name(digits))  # the lock protects it
    _drop(aside)
    try:
        _create(aside, artifact_folder(file).as_uri())
        with aside.open("rb") as made:
            os.fsync(made.fileno())
        if in_workdir(file):
            _drop(file)  # with the journal of an interrupted transaction, which must not be applied to the new database
        _rename(aside, file)
    finally:
        _drop(aside)


def _rename(file: Path, target: Path) -> None:
    """Rename a file, unless another program has made the target meanwhile."""
    try:
        os.link(file, target)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not target.exists():
            file.replace(target)


def _drop(file: Path) -> None:
    for suffix in SUFFIXES:
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _location(file: Path) -> str | None:
    """The folder of artifacts that was next to the file when it was made, or None. Users may rename our experiment."""
    mode = "rw" if os.access(file, os.W_OK) else "ro"  # "rw" undoes the write of a killed process, and "ro" fails then
    with suppress(sqlite3.Error), _opened(file, mode) as database:
        beside = "/".join(artifact_folder(file).parts[-2:])
        for (found,) in database.execute("SELECT artifact_location FROM experiments ORDER BY experiment_id"):
            if str(found).startswith("file://") and found.endswith(f"/{beside}"):
                return found
    return None


def _text_columns(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """All columns that may hold an address, as quoted names of table and column."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    for (table,) in tables.fetchall():
        for _, column, kind, *_, hidden in database.execute(f'PRAGMA table_xinfo("{table}")').fetchall():
            if not hidden and any(word in kind.upper() for word in ("CHAR", "TEXT")):
                yield f'"{table}"', f'"{column}"'


@contextmanager
def _opened(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, isolation_level=None)) as database:
        yield database
