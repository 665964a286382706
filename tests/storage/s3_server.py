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
SECONDS = 120  # the machine may be busy


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
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_for(port, process, log)
        minio.Minio(f"127.0.0.1:{port}", ACCESS, SECRET, secure=False).make_bucket(BUCKET)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


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
