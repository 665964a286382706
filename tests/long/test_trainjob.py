"""A TrainJob whose pods are processes of this machine: pods are evicted or deleted, and training goes on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from cluster.fake_kubernetes import FakeKubernetes
from cluster.lives import ended
from cluster.quick_pace import Quick

from cliptea import settings
from cliptea.cluster.job_settings import JobSettings, Passed
from cliptea.run import Run, expand
from cliptea.steps.launch import launch_variant
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import TrainInputs, train_variant
from cliptea.storage import open_store
from cliptea.tracking.runs import open_parent

pytestmark = pytest.mark.long
NODES, ITERATIONS = 2, 40


class Pods:
    """What Trainer would start: the TrainJob's command on every node, told by torchrun's variables where it is.

    Args:
        folder: of logs and caches.
        disturb: called once, with the pods, as soon as there is a checkpoint.
    """

    def __init__(self, folder: Path, disturb: Callable[[Pods], None]) -> None:
        self.folder, self.disturb = folder, disturb
        self.processes: list[subprocess.Popen] = []
        self.disturbed = False
        self.gone: set[int] = set()  # ranks whose pods are shown no more
        self.codes: list[tuple[int | None, ...]] = []  # how the processes of each TrainJob have ended

    def play(self, server: FakeKubernetes) -> None:
        (job,) = server.jobs.values()
        if not self.processes:
            self._start(job)
        for rank, process in enumerate(self.processes):
            code, name = process.poll(), f"p{rank}-{len(server.created)}"
            if rank in self.gone:
                server.gone(name)
                continue
            lines = self._log(rank).read_text().splitlines()
            server.logs[name] = [f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {line}" for line in lines]
            if code is None:
                server.pod(name, index=rank)
            else:
                server.pod(name, "Failed" if code else "Succeeded", index=rank, **ended(code))
        if not self.disturbed and self._checkpoints():
            self.disturbed = True
            self.disturb(self)
        codes = tuple(process.poll() for process in self.processes)
        if None not in codes:
            server.end("Failed" if any(codes) else "Complete")
            self.codes.append(codes)
            self.processes, self.gone = [], set()

    def _start(self, job: dict) -> None:
        trainer = job["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(trainer["numNodes"]):
            told = {
                "NNODES": trainer["numNodes"],
                "NPROC_PER_NODE": trainer["numProcPerNode"],
                "NODE_RANK": rank,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }
            given = {variable["name"]: variable["value"] for variable in trainer["env"]}
            environment = os.environ | given | {f"PET_{name}": str(value) for name, value in told.items()}
            environment["CLIPTEA_CACHE"] = str(self.folder / f"cache{rank}")
            with self._log(rank).open("w") as log:
                command = [sys.executable, *trainer["command"][1:]]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def _log(self, rank: int) -> Path:
        return self.folder / f"{rank}.log"

    def _checkpoints(self) -> list[str]:
        return [entry.key for entry in open_store().entries("train") if "/checkpoints/" in entry.key]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Of a student in a tiny world."""
    folder = tmp_path_factory.mktemp("world")
    patch = pytest.MonkeyPatch()
    patch.setenv("CLIPTEA_STORE", (folder / "store").as_uri())
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.setenv("CLIPTEA_THREADS", "1")
    patch.delenv("CLIPTEA_EVENTS", raising=False)
    train = [
        f"train.iterations={ITERATIONS}",
        "train.batch_size=8",
        "train.checkpoint_every=7",
        f"train.processes={NODES}",
    ]
    config = settings.load("smoke", ["variants=[backbones/demo_fpn]", "student.backbone=demo_fpn", *train])
    variants = expand(config)
    run = Run(config=config, data_digest="d", fingerprint="f", job_id="j", tracking_run="", variants=variants)
    run = run.model_copy(update={"tracking_run": open_parent(run)})
    splits = make_splits(run)
    yield TrainInputs(run=run, variant=variants[0], splits=splits, teacher=publish_cache(run, splits))
    patch.undo()


def evict(pods: Pods) -> None:
    """One node is taken away."""
    pods.processes[0].send_signal(signal.SIGTERM)


def delete(pods: Pods) -> None:
    """The second pod is deleted by force: its processes are killed, and it is shown no more."""
    family = [*psutil.Process(pods.processes[1].pid).children(recursive=True), pods.processes[1]]
    for process in family:
        process.kill()
    pods.gone = {1}


def delete_and_stop(pods: Pods) -> None:
    """So that the Job's controller, at once, deletes its partner too."""
    delete(pods)
    pods.processes[0].send_signal(signal.SIGTERM)


def silence(pods: Pods) -> None:
    """A node that answers no more, and closes no connection; the partner is deleted by the Job's controller."""
    for process in [*psutil.Process(pods.processes[1].pid).children(recursive=True), pods.processes[1]]:
        process.send_signal(signal.SIGSTOP)
    pods.gone = {1}
    pods.processes[0].send_signal(signal.SIGTERM)
    pods.processes[0].wait(29)  # within the grace of a pod
    delete(pods)


@pytest.mark.parametrize(
    ("disturb", "codes", "words"),
    [
        (evict, {75}, "it was stopped on request and saved a checkpoint"),
        (delete, {76}, "it disappeared while it was running: it was deleted, or its node was lost"),
        (delete_and_stop, {75, 76}, "it disappeared while it was running: it was deleted, or its node was lost"),
        (silence, {75}, "it disappeared while it was running: it was deleted, or its node was lost"),
    ],
)
def test_two_nodes_are_disturbed_and_make_the_model_that_one_makes_undisturbed(
    inputs, tmp_path, monkeypatch, capfd, disturb, codes, words
):
    server, pods = FakeKubernetes(), Pods(tmp_path, disturb)
    (tmp_path / "kubeconfig").write_text(server.kubeconfig())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    server.play = pods.play
    model = launch_variant(inputs, JobSettings(image="i:1", nodes=NODES, grace_seconds=30), Passed(), Slow)
    server.close()
    said = capfd.readouterr().err
    assert server.wrong == []
    assert len(server.created) == 2
    assert pods.codes[0][0] in codes
    assert pods.codes[1] == (0, 0)
    assert f"{words}; restarting from its last checkpoint" in said
    assert "resuming from the checkpoint at iteration" in said  # in rank 0's log, passed on

    assert model.info["processes"] == NODES
    for entry in list(open_store().entries("train")):
        open_store().delete(entry.key)
    whole = train_variant(inputs)
    for name in ("model.safetensors", "history.json"):
        assert model.objects[name].sha256 == whole.objects[name].sha256
    for entry in list(open_store().entries("train")):
        open_store().delete(entry.key)


class Slow(Quick):
    poll = 0.2
