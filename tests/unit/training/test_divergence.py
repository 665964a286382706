"""A training whose numbers are not finite ends at that iteration, and leaves neither a model nor a checkpoint."""

import math

import pytest
import torch

from cliptea import variant_groups
from cliptea.errors import NotFinite
from cliptea.manifest import Output
from cliptea.storage import FileStore
from cliptea.training.checkpoint import Checkpoints
from cliptea.training.distributed import World
from cliptea.training.loop import train_student
from cliptea.training.trainer import Trainer

FOLDER = "train/f/checkpoints"


@pytest.fixture
def config(world):
    train = {"iterations": 4, "batch_size": 8, "checkpoint_every": 1, "log_every": 1, "warmup_iterations": 0}
    return variant_groups.apply_delta(world.run.config, {"student": {"backbone": "demo_fpn"}, "train": train})


def train(group, folder, world, config):
    curves = lambda found: None  # noqa: E731
    text = world.text()
    return train_student(FileStore(folder), Output("train", "f"), config, 0, world.data(config), text, curves, group)


def left(folder):
    return [entry.key for entry in FileStore(folder).entries("train")]


def refused(group, folder, world, config, match):
    with pytest.raises(NotFinite, match=match):
        train(group, folder, world, config)
    return True


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_learning_rate_that_diverges_is_told_with_the_iteration(together, world, config, tmp_path, size, clip):
    config = variant_groups.apply_delta(config, {"train": {"lr": 1e6, "clip_norm": clip}})
    assert all(
        together(size, refused, tmp_path, world, config, r"in iteration \d: .* is (nan|inf)|of iteration \d hold")
    )
    assert not [key for key in left(tmp_path) if not key.startswith(FOLDER)]


def strike(monkeypatch, iteration, spoil):
    """Spoil the trainer after its step."""
    step = Trainer.step

    def struck(self, batch):
        found = step(self, batch)
        if self.iteration == iteration:
            with torch.no_grad():
                spoil(self)
        return found

    monkeypatch.setattr(Trainer, "step", struck)


def weight(trainer):
    next(trainer.student.parameters()).view(-1)[0] = math.nan


@pytest.mark.parametrize("iteration", [2, 4])
def test_a_weight_that_is_nan_is_never_stored(world, config, tmp_path, monkeypatch, iteration):
    """In the middle, where a checkpoint is due, and after the last step, of which no loss tells."""
    strike(monkeypatch, iteration, weight)
    with pytest.raises(NotFinite, match=rf"^student\..* of iteration {iteration} holds NaN or infinity"):
        train(World(), tmp_path, world, config)
    assert all(key.startswith(f"{FOLDER}/00000000") and int(key[len(FOLDER) + 9]) < iteration for key in left(tmp_path))


def test_a_gradient_that_is_not_finite_is_told_though_the_loss_is(world, config, tmp_path, monkeypatch):
    losses = Trainer._losses

    def spoiled(self, micro_batch, global_batch, number):
        terms = losses(self, micro_batch, global_batch, number)
        if self.iteration == 1:
            terms["total"].register_hook(lambda gradient: gradient * math.inf)
        return terms

    monkeypatch.setattr(Trainer, "_losses", spoiled)
    with pytest.raises(NotFinite, match=r"in iteration 2: the gradient's norm is (nan|inf)"):
        train(World(), tmp_path, world, config)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_that_is_not_finite_is_not_resumed_from(tmp_path, value):
    store = FileStore(tmp_path)
    with Checkpoints(store, FOLDER, 2) as checkpoints:
        checkpoints.save(7, {"student": {"w": torch.tensor([1.0, value])}})
        checkpoints.wait()
        with pytest.raises(NotFinite, match=rf"^student\.w of the checkpoint .*{FOLDER}/000000007-.*delete it"):
            checkpoints.last()


def test_initial_weights_that_are_not_finite_are_named(world, config, monkeypatch):
    from cliptea.training import trainer

    build = trainer.build_student

    def spoiled(*given):
        student = build(*given)
        with torch.no_grad():
            next(student.parameters()).view(-1)[0] = math.inf
        return student

    monkeypatch.setattr(trainer, "build_student", spoiled)
    with pytest.raises(NotFinite, match="of the initial weights of demo_fpn holds NaN or infinity"):
        Trainer(config, world.text(), 0)
