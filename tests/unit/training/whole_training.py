"""Trains a student in a store of its own, and interrupts that."""

import os
import signal

import numpy as np
import safetensors.torch

from cliptea.manifest import Output, read_object
from cliptea.storage import FileStore
from cliptea.training.distributed import World
from cliptea.training.loop import train_student
from cliptea.training.stopping import Stopped
from cliptea.training.trainer import Trainer


def train(group, folder, world, config, interrupt=None):
    """Train in a store of its own.

    Args:
        interrupt: (iteration, rank, signal) that this process is sent in the middle of that step.

    Returns:
        The manifest, or exit code and saved iteration when it was asked to stop; and the curves as they were logged.
    """
    logged = []
    step = Trainer.step

    def struck(self, batch):
        if interrupt and (self.iteration + 1, group.rank) == interrupt[:2]:
            os.kill(os.getpid(), interrupt[2])
        return step(self, batch)

    Trainer.step = struck
    try:
        model, data, text_SD = Output("train", "fp"), world.data(config), world.text()
        return train_student(FileStore(folder), model, config, 1, data, text_SD, logged.append, group), logged
    except Stopped as stopped:
        return (stopped.code, stopped.iteration), logged
    finally:
        Trainer.step = step


def weights(folder, manifest):
    return safetensors.torch.load(read_object(FileStore(folder), manifest.objects["model.safetensors"]))


def assert_same_model(folder, manifest, other_folder, other):
    one, two = weights(folder, manifest), weights(other_folder, other)
    assert one.keys() == two.keys()
    assert all(np.array_equal(tensor, two[name]) for name, tensor in one.items())
    assert manifest.objects["history.json"].sha256 == other.objects["history.json"].sha256


def killed(folder, world, config, iteration):
    """Train in a fork of this process, which is killed in that iteration."""
    pid = os.fork()
    if pid == 0:
        try:
            train(World(), folder, world, config, (iteration, 0, signal.SIGKILL))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
