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

ACCESS, SECRET = "cliptea-tests", "a-secret-that-no-message-may-show"
BUCKET = "bucket"


@contextmanager
def running(folder: Path, application: str = "nanio.app:build_app") -> Iterator[str]:
    """A server that holds one empty bucket; gives its HOST:PORT. Objects are files of the folder BUCKET."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "--factory", application, "--port", str(port), "--no-access-log"]
    environment = os.environ | {
        "NANIO_ACCESS_KEY": ACCESS,
        "NANIO_SECRET_KEY": SECRET,
        "NANIO_DATA_DIR": str(folder),
    }
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(port, process)
        minio.Minio(f"127.0.0.1:{port}", ACCESS, SECRET, secure=False).make_bucket(BUCKET)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(port: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the S3 server of the tests does not start")
