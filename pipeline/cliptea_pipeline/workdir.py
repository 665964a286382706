"""The folder of a local run: its layout, its locks, and the files that it keeps from earlier runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from cliptea import env
from cliptea.errors import ClipteaError, StorageError

__all__ = ["Workdir"]

KEPT_RUNS = 3  # folders of kfp's small artifacts
KEPT_LOGS = 20


class Workdir:
    """A folder for one run at a time.

        store/       object store                      report.html   of the last run that got so far
        mlflow/      mlflow.db and artifacts           results.json
        kfp/         kfp's artifacts, last runs        logs/         one file a run
        run/         locks, events and the pipe of the present run

    Raises:
        StorageError: it is not writable.
        ClipteaError: another run, or a step of a killed run, is using it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        full = root.absolute()
        self.store, self.mlflow, self.kfp, self.logs = (full / n for n in ("store", "mlflow", "kfp", "logs"))
        self.report, self.results = root / "report.html", root / "results.json"
        self._run = full / "run"
        try:
            for folder in (self.store, self.mlflow, self.kfp, self.logs, self._run):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._prune()
            self.name = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
            self.log, present = self.logs / f"{self.name}.log", self._run / self.name
            self.events, self.alive = present / "events.jsonl", present / "alive"
            present.mkdir()
            self.events.touch()
            os.mkfifo(self.alive)
            self.temporary = Path(tempfile.mkdtemp(prefix="cliptea-"))
            (present / "temporary").write_text(str(self.temporary))
        except OSError as error:
            raise StorageError(
                f"cannot use the work directory {root}: {error.strerror or error}",
                "a writable local folder",
                "choose another one with --workdir",
            ) from None
        self._hold_alive()

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow: the user's server, or a database in this folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.mlflow / 'mlflow.db'}"

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

    def close(self) -> None:
        """Stop all remaining processes of the run, and release the folder for the next run."""
        os.close(self._pipe)
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.alive.unlink(missing_ok=True)
        os.close(self.lock)

    def _lock(self) -> None:
        todo = "wait for it, stop it, or choose another folder with --workdir"
        self.lock = os.open(self._run / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(self.lock):
            process = os.read(self.lock, 20).decode() or "?"
            raise ClipteaError(f"another run is using {self.root} (process {process})", todo=todo)
        tasks = os.open(self._run / "tasks.lock", os.O_RDWR | os.O_CREAT, 0o644)
        free = _locked(tasks)
        os.close(tasks)
        if not free:
            raise ClipteaError(f"a step of a killed run is still running in {self.root}", todo=todo)
        os.truncate(self.lock, 0)
        os.write(self.lock, str(os.getpid()).encode())

    def _prune(self) -> None:
        for folder in self._run.iterdir():
            if folder.is_dir():
                left = folder / "temporary"
                if left.is_file():
                    shutil.rmtree(left.read_text(), ignore_errors=True)
                shutil.rmtree(folder, ignore_errors=True)
        for folder in sorted(self.kfp.iterdir())[: -KEPT_RUNS + 1]:
            shutil.rmtree(folder, ignore_errors=True)
        for log in sorted(self.logs.iterdir())[: -KEPT_LOGS + 1]:
            log.unlink(missing_ok=True)

    def _hold_alive(self) -> None:
        reader = os.open(self.alive, os.O_RDONLY | os.O_NONBLOCK)  # a writer can only open it with a reader
        self._pipe = os.open(self.alive, os.O_WRONLY)
        os.close(reader)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
