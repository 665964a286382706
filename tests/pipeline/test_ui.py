"""`cliptea ui` opens MLflow with the runs of a work directory, and Ctrl-C leaves no process behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
from mlflow_server import free_port
from storage.s3_server import wait_for

MARK, SECONDS = "CLIPTEA_TEST_UI", 120  # the machine may be busy


def marked(mark):
    """The processes that `cliptea ui` has started, also those that have left its session."""
    processes = psutil.process_iter(["environ"])
    return [process for process in processes if (process.info["environ"] or {}).get(MARK) == mark]


def test_ui_shows_the_work_directory_and_leaves_no_process(empty_database, tmp_path):
    root, log, port = tmp_path / "a work directory", tmp_path / "log", free_port()
    (root / "mlflow").mkdir(parents=True)
    shutil.copy(empty_database, root / "mlflow/mlflow.db")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= {MARK: str(tmp_path), "DO_NOT_TRACK": "true"}
    command = [sys.executable, "-m", "cliptea_pipeline.cli", "ui", "--workdir", str(root), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(port, process, log)
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
            json.dumps({"max_results": 5}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
            assert [experiment["name"] for experiment in json.load(answer)["experiments"]] == ["Default"]
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        process.wait(SECONDS)
        until = time.monotonic() + SECONDS
        while marked(str(tmp_path)) and time.monotonic() < until:
            time.sleep(0.1)
        assert marked(str(tmp_path)) == []
    finally:
        for left in marked(str(tmp_path)):
            left.kill()
