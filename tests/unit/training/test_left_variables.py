"""Left-over variables of torchrun do not start processes, and processes that are joined decide together."""

from contextlib import contextmanager
from types import SimpleNamespace

from cliptea import variant_groups
from cliptea.steps import train as training
from cliptea.steps.train import TrainInputs, train_variant


def test_a_training_in_one_process_does_not_wait_for_processes_that_never_come(world, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    left = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29507"}
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    variant = world.run.variants[0]
    train = {"iterations": 2, "batch_size": 4, "workers": 0}
    config = variant_groups.apply_delta(variant.config, {"student": {"backbone": "demo_fpn"}, "train": train})
    variant = variant.model_copy(update={"config": config})
    made = train_variant(TrainInputs(run=world.run, variant=variant, splits=world.splits, teacher=world.teacher))
    assert made.info["processes"] == 1


def test_processes_that_are_joined_let_the_first_one_say_whether_the_model_exists(world, monkeypatch):
    """Otherwise one that finds a model, which another run has made meanwhile, would leave the others waiting."""
    asked = []
    monkeypatch.setattr(training, "find", lambda *given: asked.append(given))
    variant = world.run.variants[0]
    inputs = TrainInputs(run=world.run, variant=variant, splits=world.splits, teacher=world.teacher)

    @contextmanager
    def join():
        yield SimpleNamespace(is_first=False, size=2, agree=lambda value: value or "made by another run")

    monkeypatch.setattr("cliptea.training.distributed.join", join)
    assert train_variant(inputs, joined=True) == "made by another run"
    assert asked == []
