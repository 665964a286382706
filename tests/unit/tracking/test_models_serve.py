"""`mlflow models serve` answers with the masks of predict."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from cliptea.segment.segmenter import open_segmenter
from cliptea.tracking.model import save_model


@pytest.fixture
def server(model_folder, tmp_path):
    """The address of MLflow's server for a small model."""
    student = tmp_path / "student"
    shutil.copytree(model_folder, student)
    save_model(tmp_path / "model", student, ["sky", "grass", "cow", "zebra"], ["zebra"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["models", "serve", "-m", str(tmp_path / "model"), "--env-manager", "local", "--port", port]
    with (tmp_path / "log").open("w") as log:
        served = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},  # of uvicorn
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(1000):
            assert served.poll() is None, (tmp_path / "log").read_text()
            try:
                with urllib.request.urlopen(f"{address}/ping", timeout=10):
                    break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(served.pid, signal.SIGTERM)  # it starts uvicorn through a shell
        served.wait(60)


def test_the_server_of_mlflow_gives_the_masks_of_predict(server, model_folder):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    model = open_segmenter(model_folder)
    for given, classes in (({}, model.known()), ({"params": {"classes": ["cow", "sky"]}}, model.known(["cow", "sky"]))):
        request = urllib.request.Request(
            f"{server}/invocations",
            json.dumps({"inputs": images.tolist()} | given).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            masks = np.array(json.loads(answer.read())["predictions"])
        assert masks.shape == (2, 40, 56)
        for image, mask in zip(images, masks, strict=True):
            assert (mask == model.mask(image, classes)).mean() >= 0.999
