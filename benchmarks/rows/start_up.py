"""How long it takes until a command starts its work, compared with importing torch alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.measure import Bench, Row, interleaved

GOALS = {"second cliptea run, everything reused": 2.0, "cliptea predict, one image": 1.8}

NOTE = (
    "Start-up: a second run imports Kubeflow Pipelines and MLflow, starts a process for each step, and checks the "
    "sha256 of what it reuses. `predict` also imports torchvision and timm, which build the network, and reads the "
    "model."
)


def measure(bench: Bench) -> Iterator[Row]:
    """A finished run of the smoke preset is repeated, and its first model predicts an image with its own classes."""
    command, workdir, photo = (
        Path(sys.executable).with_name("cliptea"),
        bench.folder / "run",
        bench.folder / "photo.png",
    )
    run = [command, "run", "--preset", "smoke", "--workdir", workdir]
    _call(run)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    model = min((workdir / "mlflow").rglob("model.safetensors")).parent
    calls = [run, [command, "predict", photo, "--model", model, "-o", bench.folder / "predictions"]]
    torch = [sys.executable, "-c", "import torch"]
    *ours, bare = interleaved(bench.repeats, *(partial(_call, call) for call in (*calls, torch)))
    for (name, goal), seconds in zip(GOALS.items(), ours, strict=True):
        yield Row(
            f"{name} : import torch",
            f"{median(seconds):.2f} s",
            f"{median(bare):.2f} s",
            median(own / other for own, other in zip(seconds, bare, strict=True)),
            goal,
            at_most=True,
            note=NOTE,
        )


def _call(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
