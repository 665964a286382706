"""A real S3 server with signatures enforced, as a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import minio

from cliptea.storage.minio_client import Limits

ACCESS, SECRET = "cliptea-tests", "a-secret-that-no-message-may-show"
BUCKET = "bucket"
SECONDS = 120  # the machine may be busy
QUICK = Limits(timeout=1.0, patience=5.0, part=5 << 20, parallel=3)  # for stores whose server answers at once


class S3Server:
    """Can be killed and started again, at the same port and over the same folder."""

    def __init__(self, folder: Path, application: str = "nanio.app:build_app") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "uvicorn", "--factory", application, "--port", str(self.port), "--no-access-log",
        ]  # fmt: skip
        self._environment = os.environ | {
            "NANIO_ACCESS_KEY": ACCESS,
            "NANIO_SECRET_KEY": SECRET,
            "NANIO_DATA_DIR": str(folder),
        }
        self._log = folder.with_suffix(".log")
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=output, stderr=output)
        wait_for(self.port, self._process, self._log)

    def kill(self) -> None:
        """Without a word to anybody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(folder: Path, application: str = "nanio.app:build_app") -> Iterator[str]:
    """A server that holds one empty bucket; gives its HOST:PORT. Objects are files of the folder BUCKET."""
    server = S3Server(folder, application)
    try:
        server.start()
        minio.Minio(server.host, ACCESS, SECRET, secure=False).make_bucket(BUCKET)
        yield server.host
    finally:
        server.kill()


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    """Until a server that was started listens."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} does not start: {log.read_text()[-2000:]}")
