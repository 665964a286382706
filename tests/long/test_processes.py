"""Training under torchrun, as a step starts it and as a cluster does: the same model, however it is interrupted."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from cliptea import settings
from cliptea.errors import StorageError
from cliptea.manifest import Manifest, read_object
from cliptea.run import Run, expand
from cliptea.sealed import seal
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs, model_output, train_variant
from cliptea.storage import open_store
from cliptea.training.torchrun import start

pytestmark = pytest.mark.long
ITERATIONS = 40


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny world, and a student whose training takes a while."""
    from cliptea.tracking.runs import open_parent

    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("CLIPTEA_STORE", (folder / "store").as_uri())
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.setenv("CLIPTEA_THREADS", "2")
    train = [f"train.iterations={ITERATIONS}", "train.batch_size=8", "train.checkpoint_every=7", "train.processes=2"]
    config = settings.load("smoke", ["variants=[backbones/demo_fpn]", "student.backbone=demo_fpn", *train])
    variants = expand(config)
    run = Run(
        config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="", variants=variants
    )  # fmt: skip
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    splits = make_splits(run)
    yield TrainInputs(run=run, variant=variants[0], splits=splits, teacher=publish_cache(run, splits))
    patch.undo()


def with_seed(inputs: TrainInputs, seed: int) -> TrainInputs:
    variant = inputs.variant.model_copy(update={"seed": seed, "label": f"{inputs.variant.label} seed {seed}"})
    return inputs.model_copy(update={"variant": variant})


def begin(inputs: TrainInputs, *torchrun: str) -> subprocess.Popen:
    open_store().put(inputs.key, seal(inputs))
    command = [sys.executable, *torchrun, "-m", TRAIN_PROCESS, inputs.key]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def forget(inputs: TrainInputs) -> None:
    """Remove the model, so that it is trained anew."""
    store = open_store()
    for entry in list(store.entries(model_output(inputs).prefix)):
        store.delete(entry.key)


def checkpoints(inputs: TrainInputs) -> list[int]:
    names = [entry.key for entry in open_store().entries(f"{model_output(inputs).prefix}/checkpoints")]
    return [int(re.search(r"/(\d+)-", name)[1]) for name in names]


def wait_for(condition, seconds=120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.environ().get("RANK") in ("0", "1")]


def digests(manifest: Manifest) -> list[str]:
    return [manifest.objects[name].sha256 for name in ("model.safetensors", "history.json")]


def test_the_step_starts_processes_and_goes_on_after_sigterm(inputs):
    whole = train_variant(inputs)
    assert whole.info["processes"] == 2
    assert whole.output == model_output(inputs)
    curves = json.loads(read_object(open_store(), whole.objects["history.json"]))
    assert curves[-1]["iteration"] == ITERATIONS
    forget(inputs)

    process = begin(inputs)
    wait_for(lambda: checkpoints(inputs))
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert time.monotonic() - asked < 20
    stopped = int(re.search(r"iteration (\d+) is saved", said)[1])
    assert checkpoints(inputs)[-1] == stopped < ITERATIONS
    assert not any(psutil.pid_exists(member.pid) for member in family)

    again = train_variant(inputs)
    assert digests(again) == digests(whole)
    assert checkpoints(inputs) == []


def test_a_killed_process_ends_the_others_and_the_next_training_goes_on(inputs):
    inputs = with_seed(inputs, 1)
    whole = train_variant(inputs)
    forget(inputs)
    for rank in (0, 1):
        before = checkpoints(inputs)
        process = begin(inputs)
        wait_for(lambda before=before: set(checkpoints(inputs)) - set(before))
        family = psutil.Process(process.pid).children(recursive=True)
        next(p for p in ranks(process) if p.environ()["RANK"] == str(rank)).kill()
        _, said = process.communicate(timeout=120)
        assert process.returncode not in (0, 75), said
        assert not any(psutil.pid_exists(member.pid) for member in family)
    assert digests(train_variant(inputs)) == digests(whole)


def test_torchrun_as_a_cluster_starts_it(inputs, monkeypatch):
    """Processes that torchrun's own variables ask for; and one process goes on from where two stopped."""
    inputs = with_seed(inputs, 2)
    for name, value in {"NNODES": 1, "NPROC_PER_NODE": 2, "MASTER_PORT": 29517}.items():
        monkeypatch.setenv(f"PET_{name}", str(value))
    process = begin(inputs, "-m", "torch.distributed.run")
    wait_for(lambda: checkpoints(inputs))
    assert len(ranks(process)) == 2
    process.terminate()
    process.communicate(timeout=60)
    monkeypatch.setenv("PET_NPROC_PER_NODE", "1")
    process = begin(inputs)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "resuming from the checkpoint at iteration" in said
    assert train_variant(inputs).info["processes"] == 1


def test_the_error_of_a_process_is_one_line(inputs):
    store, split = open_store(), inputs.splits.own
    shards = [entry.key for entry in store.entries(split.output.prefix) if entry.key.endswith(".tar")]
    key = next(key for key in shards if "/train/" in key)
    data = store.get(key)
    store.put(key, bytes(len(data)))
    try:
        with pytest.raises(StorageError, match="damaged") as raised:
            train_variant(with_seed(inputs, 3))
    finally:
        store.put(key, data)
    assert "\n" not in str(raised.value)


def test_missing_inputs_are_one_line(inputs):
    with pytest.raises(StorageError, match=r"nothing\.json is missing"):
        start(TRAIN_PROCESS, "train/nothing.json", 2)
