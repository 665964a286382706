"""An MLflow server as a cluster has it: runs in PostgreSQL, artifacts in S3. All three are real, and have passwords."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from storage.s3_server import ACCESS, BUCKET, SECONDS, SECRET, wait_for
from storage.s3_server import running as s3_running

DATABASE_SECRET = "a-password-that-no-client-may-learn"


class MlflowServer:
    """Can be killed and started again; what it has taken is then still there."""

    def __init__(self, folder: Path, backend: str, s3: str) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._log = folder / "mlflow.log"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MLFLOW_"))} | {
            "MLFLOW_BACKEND_STORE_URI": backend,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{s3}",
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "DO_NOT_TRACK": "true",
        }
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self.port, self._process, self._log)

    def kill(self) -> None:
        """Without a word to anybody, as a lost node."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            with suppress(
                OSError
            ):  # its workers hold the port a little longer, and the next start would take them for it
                while True:
                    socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                    time.sleep(0.05)
        self._process = None


def missing() -> str:
    """What a machine lacks that cannot run it; empty when nothing."""
    return "" if _programs() else "starts a PostgreSQL server: install Debian's package postgresql"


@contextmanager
def running(folder: Path, encoding: str = "UTF8") -> Iterator[MlflowServer]:
    """The server, with an empty database and an empty bucket below `folder`."""
    (folder / "s3").mkdir()
    with postgresql(encoding) as backend, s3_running(folder / "s3") as s3:
        server = MlflowServer(folder, backend, s3)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def postgresql(encoding: str = "UTF8") -> Iterator[str]:
    """The address of an empty database, password included."""
    programs, port = _programs(), free_port()
    assert programs is not None
    home = Path(
        tempfile.mkdtemp(prefix="cliptea-postgresql-")
    )  # not pytest's folder, into which only its user may look
    (home / "password").write_text(DATABASE_SECRET)
    user = {}
    if os.geteuid() == 0:  # whom PostgreSQL refuses
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        for path in (home, home / "password"):
            shutil.chown(path, "postgres", "postgres")
    log = home / "log"
    try:
        subprocess.run(
            [programs / "initdb", "--pgdata", home / "data", "--username=mlflow", "--auth=scram-sha-256",
             "--pwfile", home / "password", "--no-sync", f"--encoding={encoding}",
             f"--locale={'C.UTF-8' if encoding == 'UTF8' else 'C'}"],
            check=True, cwd=home, stdout=subprocess.DEVNULL, **user,
        )  # fmt: skip
        settings = ("fsync=off", f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [programs / "postgres", "-D", home / "data", *(f"--{setting}" for setting in settings)],
                cwd=home, stdout=output, stderr=output, **user,
            )  # fmt: skip
        try:
            wait_for(port, process, log)
            address = f"://mlflow:{DATABASE_SECRET}@127.0.0.1:{port}/postgres"
            _await_login(f"postgresql{address}")
            yield f"postgresql+psycopg{address}"
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(home)


def _await_login(address: str) -> None:
    """PostgreSQL listens before it is ready, and turns away who comes then."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            psycopg.connect(address).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _programs() -> Path | None:
    """The folder of PostgreSQL's own programs; Debian does not have it on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
