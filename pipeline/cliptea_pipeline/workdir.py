"""The folder of a local run: its mark, its layout, its locks, and the files that it keeps from earlier runs."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cliptea import env
from cliptea.errors import ClipteaError, StorageError
from cliptea.files import SUMS, sums
from cliptea.log_lines import tell
from cliptea.parse import require_utf8
from cliptea.storage.local_files import delete_partial_files, make_folder, open_lock, unusable, write_file
from cliptea.storage.marks import MARK, WORKDIR, claim, read_mark
from cliptea.tracking.database import DATABASE, database_uri, readdress, require_unlocked
from cliptea_pipeline.own_files import require_link
from cliptea_pipeline.temporary import drop_temporary, make_temporary

__all__ = ["REPORTS", "STORE", "Workdir", "held", "is_workdir", "require_own_mlflow", "require_workdir"]

STORE, MLFLOW, KFP, LOGS, RUN = FOLDERS = ("store", "mlflow", "kfp", "logs", "run")
REPORT, RESULTS = "report.html", "results.json"
REPORTS, IMAGES = "reports", "images"
KEPT_RUNS = 3  # folders of kfp's small artifacts
KEPT_LOGS = 20
LOOK_SECONDS = 0.2  # between two looks at the lock
# Only entries with these names are deleted. Everything else in these folders is the user's.
RUN_NAME = re.compile(r"\d{8}-\d{6}-\d+")
LOG_NAME = re.compile(r"\d{8}-\d{6}-\d+\.log")
KFP_NAME = re.compile(r"cliptea-\d{4}-[\d-]+")


class Workdir:
    """A folder for one run at a time, which has our mark.

        store/       object store                      report.html   of the last run that got so far
        mlflow/      mlflow.db and artifacts           results.json
        reports/     both of each run, by its name,    logs/         one file a run
                     with their SHA256SUMS
        kfp/         kfp's artifacts, last runs        images/        to try the demo's model on
        run/         locks, events and the pipe of the present run
        cliptea.json the mark

    Raises:
        StorageError: it is not writable; the folder, or what has the name of its report, belongs to somebody else; or
            another program holds the lock of its database.
        ConfigError: its path is not UTF-8.

    If another run, or a step of a killed run, is using the folder, this one waits for it, and says so.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        with _usable(root), ExitStack() as opened:
            full = root.resolve()  # the address of the artifacts, which must not depend on links
            require_utf8(str(full), f"the path of the work directory {root}")  # kfp and MLflow store it
            _claim(root)
            for name in (REPORT, RESULTS):
                require_link(root, name, f"{REPORTS}/*/{name}")
            self.store, self.mlflow, self.kfp, self.logs, self._run = (full / name for name in FOLDERS)
            self.report, self.results, self.images = root / REPORT, root / RESULTS, root / IMAGES
            require_own_mlflow(root)
            for folder in (self.store, self.mlflow, self.kfp, self.logs, self._run):
                folder.mkdir(parents=True, exist_ok=True)
            self.lock = _lock(root, self._run, wait=True)
            opened.callback(os.close, self.lock)
            self._prune()
            require_unlocked(full / DATABASE)
            readdress(full / DATABASE)
            self.name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
            self._kept = full / REPORTS / self.name
            self.log, present = self.logs / f"{self.name}.log", self._run / self.name
            self.events, self.alive = present / "events.jsonl", present / "alive"
            self.arguments = present / "arguments.json"
            present.mkdir()
            self.events.touch()
            os.mkfifo(self.alive)
            opened.callback(self.alive.unlink, missing_ok=True)
            self.temporary = make_temporary(present)
            opened.callback(shutil.rmtree, self.temporary, ignore_errors=True)
            opened.callback(os.close, _hold(self.alive))
            self._opened = opened.pop_all()  # an error before this line closes all of it

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow: the user's server, or a database in this folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or database_uri(self.mlflow / DATABASE.name)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the processes of the run."""
        return {
            **os.environ,
            env.STORE.name: env.STORE.get() or self.store.as_uri(),
            env.EVENTS.name: str(self.events),
            env.ALIVE.name: str(self.alive),
            env.TASKS_LOCK.name: str(self._run / "tasks.lock"),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PYTHONUNBUFFERED": "1",
            "PYTHONSAFEPATH": "1",  # a file in the user's folder must not shadow a module
            "TMPDIR": str(self.temporary),
        }

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write files of this run and their SHA256SUMS to its folder in `reports`, with links that lead to the files.

        So the report of one run never overwrites that of another.
        """
        for name, data in {**files, SUMS: sums(files)}.items():
            write_file(self._kept / name, data)
        for name in files:
            link = self._kept / f".{name}"
            try:
                link.unlink(missing_ok=True)
                link.symlink_to(Path(REPORTS, self.name, name))
                link.replace(self.root / name)  # it only leads to the file from there
            except OSError as error:
                raise unusable(self.root / name, error) from None

    def close(self) -> None:
        """Stop all remaining processes of the run, and release the folder for the next run."""
        self._opened.close()

    def _prune(self) -> None:
        """Delete what killed and earlier runs have left."""
        for folder in _named(self._run, RUN_NAME):
            drop_temporary(folder)
            shutil.rmtree(folder, ignore_errors=True)
        for folder in _named(self.kfp, KFP_NAME)[: -KEPT_RUNS + 1]:
            shutil.rmtree(folder, ignore_errors=True)
        for log in _named(self.logs, LOG_NAME)[: -KEPT_LOGS + 1]:
            with suppress(OSError):
                log.unlink()
        delete_partial_files(self.root.resolve())  # the first step does the same in a store elsewhere


@contextmanager
def _usable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot use the work directory {root}: {error.strerror or error}",
            "a writable local folder",
            "choose another one with --workdir",
        ) from None


def _hold(alive: Path) -> int:
    """The write end of the pipe. A step whose run was killed notices that it is closed."""
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)  # a writer can only open it with a reader
    try:
        return os.open(alive, os.O_WRONLY)
    finally:
        os.close(reader)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """Keep runs out of a work directory during the block.

    Raises:
        StorageError: it is not a work directory, or is not writable.
        ClipteaError: a run, or a step of a killed run, is using it.
    """
    require_workdir(root)
    try:
        lock = _lock(root, make_folder(root.resolve() / RUN))
    except OSError as error:
        raise unusable(root, error) from None
    try:
        yield
    finally:
        os.close(lock)


def require_own_mlflow(root: Path) -> None:
    """Check that MLflow's folder is inside the work directory. A copy with a link would write into the original.

    Raises:
        StorageError: it is a link.
    """
    folder = root / MLFLOW
    if folder.is_symlink():
        raise StorageError(
            f"{folder} is a link", "a folder", "delete the link, and set MLFLOW_TRACKING_URI to its database to use it"
        )


def is_workdir(root: Path) -> bool:
    """Whether the folder has the mark of a work directory."""
    return read_mark(root).get("kind") == WORKDIR


def require_workdir(root: Path) -> None:
    """Check that the folder has the mark of a work directory.

    Raises:
        StorageError: it has not.
    """
    if not is_workdir(root):
        raise StorageError(
            f"the folder {root} is not a work directory of cliptea",
            f"a folder that `cliptea run` has made, with the file {MARK}",
            "name it with --workdir",
        )


def _lock(root: Path, run: Path, *, wait: bool = False) -> int:
    """Lock a work directory whose folder for the present run is `run`. Returns the handle that holds the lock.

    Args:
        wait: wait for whoever is using it, and say so once, instead of raising an error.
    """
    told = ""
    while True:
        with ExitStack() as opened:
            lock = _open_lock(run)
            opened.callback(os.close, lock)
            user = _try_lock(run, lock)
            if not user:
                os.truncate(lock, 0)
                os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())  # the folder may be shared
                opened.pop_all()
                return lock
        if not wait:
            todo = "wait for it, stop it, or choose another folder with --workdir"
            raise ClipteaError(f"{user} {root}", todo=todo)
        if user != told:
            tell("info", f"{user} {root}; waiting until it ends")
        told = user
        time.sleep(LOOK_SECONDS)


def _open_lock(run: Path) -> int:
    if run.is_symlink():
        raise StorageError(f"{run} is a link", "a folder", "delete the link, which cliptea has not made")
    return open_lock(run / "lock")


def _try_lock(run: Path, lock: int) -> str:
    """Lock the handle of the lock. Returns in words who is using the folder, or "" if it is ours now."""
    if not _locked(lock):
        process = os.read(lock, 100).decode() or "?"
        return f"another run (process {process}) is using"
    tasks = open_lock(run / "tasks.lock")
    free = _locked(tasks)
    os.close(tasks)
    return "" if free else "a step of a killed run is still running in"


def _claim(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    claim(root, WORKDIR, "choose another one with --workdir")


def _named(folder: Path, names: re.Pattern[str]) -> list[Path]:
    """The folder's entries with such names, sorted. A link in place of the folder leads to somebody else's."""
    return [] if folder.is_symlink() else sorted(path for path in folder.iterdir() if names.fullmatch(path.name))


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
