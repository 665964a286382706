"""Variables of torchrun that another job left in the environment do not change or stop a training on one machine."""

from cliptea import variant_groups
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
