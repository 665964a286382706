"""Training that nobody follows ends by itself, and that of a follower who writes, or cannot be read, does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time

import pytest

from cliptea import variant_groups
from cliptea.board import BarStatus, StepStatus, posting, read_board, status_key
from cliptea.errors import ServerAway
from cliptea.sealed import seal
from cliptea.steps.train import TRAIN_PROCESS, TrainInputs
from cliptea.storage import FileStore, open_store
from cliptea.training import follower as module
from cliptea.training import torchrun
from cliptea.training.follower import Follower, Watch
from cliptea.training.stopping import Stopped

KEY = "runs/j/train-0/step.json"


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def after(self, seconds: float, watch: Watch) -> bool:
        self.now += seconds
        return watch.abandoned()


class Moody(FileStore):
    """A store that may be away."""

    away = False

    def entry(self, key):
        if self.away:
            raise ServerAway("the store is away")
        return super().entry(key)


@pytest.fixture
def store(tmp_path):
    return Moody(tmp_path)


def test_an_object_that_changes_is_a_sign_whatever_it_says(store, monkeypatch):
    clock, watch = Clock(monkeypatch), Watch(store, Follower(key=KEY, seconds=100))
    for beat in range(10):
        store.put(KEY, f"written in the year {1970 + beat % 2}".encode())  # its writer's clock is of no matter
        assert not clock.after(90, watch)
    assert not clock.after(99, watch)
    assert clock.after(2, watch)


def test_an_object_that_never_was_counts_from_the_start(store, monkeypatch):
    clock, watch = Clock(monkeypatch), Watch(store, Follower(key=KEY, seconds=100))
    assert not clock.after(99, watch)
    assert clock.after(2, watch)


def test_a_store_that_cannot_be_read_is_no_silence(store, monkeypatch):
    clock, watch = Clock(monkeypatch), Watch(store, Follower(key=KEY, seconds=100))
    store.put(KEY, b"1")
    assert not clock.after(20, watch)
    store.away = True
    assert not any(clock.after(20, watch) for _ in range(60))
    store.away = False  # the follower could not write either
    assert not clock.after(20, watch)
    assert not clock.after(79, watch)
    assert clock.after(2, watch)


SAVES = """
import signal, sys, time

def stop(number, frame):
    from cliptea.training.failure import store_error
    from cliptea.training.stopping import Stopped

    store_error(Stopped(7))
    sys.exit(1)

signal.signal(signal.SIGTERM, stop)
time.sleep(300)
"""


def test_processes_that_nobody_follows_are_asked_to_stop(tmp_path, monkeypatch, capfd):
    """A process that saves when it is asked to stands for torchrun with all of its own."""
    monkeypatch.delenv("CLIPTEA_EVENTS", raising=False)  # news are read from stderr
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    begun, real = time.monotonic(), subprocess.Popen
    monkeypatch.setattr(torchrun.subprocess, "Popen", lambda command, env: real([sys.executable, "-c", SAVES], env=env))
    with pytest.raises(Stopped, match="iteration 7 is saved"):
        torchrun.start("any.module", "train/x/inputs.json", 1, Follower(key=KEY, seconds=3.0))
    assert 3 < time.monotonic() - begun < 100
    assert capfd.readouterr().err.count("no step has followed this training for 3.0 s; saving a checkpoint") == 1


def begin(world, follower):
    """`cliptea.steps.train_process` of a student of the tiny world, which does not come to its end."""
    run, splits, teacher = world
    train = {"batch_size": 4, "checkpoint_every": 10**6, "iterations": 10**6}
    config = variant_groups.apply_delta(run.variants[0].config, {"student": {"backbone": "demo_fpn"}, "train": train})
    variant = run.variants[0].model_copy(update={"config": config})
    inputs = TrainInputs(run=run, variant=variant, splits=splits, teacher=teacher, follower=follower)
    open_store().put("train/x/inputs.json", seal(inputs))
    command = [sys.executable, "-m", TRAIN_PROCESS, "train/x/inputs.json"]
    given = {"CLIPTEA_THREADS": "1", "CLIPTEA_STEP": '["train", "a"]', "MLFLOW_TRACKING_URI": ""}
    environment = {name: value for name, value in os.environ.items() if name != "CLIPTEA_EVENTS"} | given
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def said_until(training, words):
    """What it prints, up to the line with these words."""
    lines = []
    for line in training.stderr:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.long
def test_training_whose_follower_has_gone_saves_and_goes_on_when_it_is_started_again(world):
    run, label = world[0], world[0].variants[0].label
    key = status_key(run.job_id, "train", label)
    there = threading.Event()

    def follow():
        while not there.wait(0.5):
            open_store().put(key, str(time.monotonic()).encode())

    threading.Thread(target=follow, daemon=True).start()
    training = begin(world, {"key": key, "seconds": 4.0})
    said_until(training, "train a: training 0/1000000 it")
    there.set()
    gone = time.monotonic()
    _, said = training.communicate(timeout=120)
    assert training.returncode == 75, said
    assert 4 < time.monotonic() - gone < 110
    assert said.count("no step has followed this training for 4.0 s; saving a checkpoint and stopping") == 1
    stopped = int(re.search(r"iteration (\d+) is saved", said)[1])
    assert stopped > 0
    bar = open_store().get(status_key(run.job_id, "train", label, "training"))
    assert StepStatus.model_validate_json(bar).bar is None  # of a process that has ended

    again = begin(world, None)
    said_until(again, f"resuming from the checkpoint at iteration {stopped}")
    said_until(again, "train a: training")
    again.terminate()
    _, said = again.communicate(timeout=120)
    assert again.returncode == 75, said


BAR = BarStatus(text="training", total=9, unit="it", done=7, rate=1.5, left=2.0, values={"loss": 0.5})


def test_the_board_shows_the_bar_of_training_as_that_of_its_step(tmp_path):
    store = FileStore(tmp_path)
    with posting(store, "j", "train", "g/a"):
        store.put(
            status_key("j", "train", "g/a", "training"),
            StepStatus(step="train", label="g/a", started=0, updated=0, bar=BAR).model_dump_json().encode(),
        )
        time.sleep(0.2)
        (status,) = read_board(store, "j")
    assert (status.step, status.label, status.bar) == ("train", "g/a", BAR)
