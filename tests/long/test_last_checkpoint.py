"""The last checkpoint of a student as large as ViT-L is stored within the time that a training pod has to stop."""

import time

import psutil
import pytest
import torch
from storage.s3_server import ACCESS, BUCKET, SECRET, running

from cliptea.cluster.job_settings import JobSettings
from cliptea.storage.s3_store import S3Store
from cliptea.training.checkpoint import Checkpoints
from cliptea.training.torchrun import SPARE_SECONDS
from cliptea_pipeline.placement import TrainJobPlacement

PARAMETERS = 304_000_000  # of ViT-L

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(psutil.virtual_memory().available < 16 << 30, reason="needs 16 GiB of free memory"),
]


def test_the_last_checkpoint_is_stored_in_half_of_the_time(tmp_path, monkeypatch):
    """The other half is for the one before. The server is on this machine, and shares its processors and its disk."""
    state = {name: torch.ones(PARAMETERS) for name in ("weights", "first moments", "second moments")}
    with running(tmp_path / "server") as host:
        monkeypatch.setenv("CLIPTEA_S3_ENDPOINT", f"http://{host}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        store = S3Store(BUCKET, "run")
        with Checkpoints(store, "c", 2) as checkpoints:
            start = time.monotonic()
            checkpoints.save_last(2, state)
            seconds = time.monotonic() - start
        assert [entry.size // (12 * PARAMETERS) for entry in store.entries("c")] == [1]
    assert TrainJobPlacement().grace_seconds == JobSettings(image="i:1").grace_seconds
    assert 2 * seconds < TrainJobPlacement().grace_seconds - SPARE_SECONDS
