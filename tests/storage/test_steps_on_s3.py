"""Split, teacher step and training over S3 on a bad network: the same as on a disk."""

import json
import threading

import open_clip
import pytest
import safetensors.torch
import torch
from s3_server import BUCKET, QUICK

from cliptea import progress, settings, variant_groups
from cliptea.data.datasets import open_dataset
from cliptea.manifest import Output, read_object
from cliptea.run import Run, expand
from cliptea.steps.split import make_splits
from cliptea.steps.teacher import publish_cache
from cliptea.steps.train import training_data
from cliptea.storage import open_store, s3_store
from cliptea.training.batches import batches
from cliptea.training.loop import train_student

CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "clip"
    folder.mkdir()
    model = open_clip.CLIP(CLIP["embed_dim"], CLIP["vision_cfg"], CLIP["text_cfg"])
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    return folder


def prepare(clip):
    """A run with its split and tokens."""
    torch.set_num_threads(1)
    config = settings.load("smoke", [f"teacher.weights={clip}", "train.iterations=3", "data.world.train_scenes=12",
                                     "data.world.val_scenes=2", "variants=[baselines/full]",
                                     "train.checkpoint_every=1"])  # fmt: skip
    run = Run(config=config, data_digest=open_dataset(config.data).digest(), fingerprint="f", job_id="j",
              tracking_run="t", variants=expand(config))  # fmt: skip
    splits = make_splits(run)
    return config, splits, publish_cache(run, splits)


def everything(clip):
    """What the steps leave in the store, and the batches that training reads from it."""
    config, *prepared = prepare(clip)
    data, _ = training_data(open_store(), config, *prepared)
    read = list(batches(config, data, seed=0))
    store = open_store()
    measured = "clip-time/"  # takes another time in each run
    objects = {entry.key: store.get(entry.key) for entry in store.entries("") if not entry.key.startswith(measured)}
    return objects, read


def weights(prepared, log=lambda curves: None):
    """Those of a student that is trained to the end, or on from where one was stopped."""
    config, *others = prepared
    store, data = open_store(), training_data(open_store(), config, *others)
    model = train_student(store, Output("train", "f"), config, 0, *data, log)
    return read_object(open_store(), model.objects["model.safetensors"])


def test_steps_over_a_bad_network_leave_what_they_leave_on_a_disk(store, proxy, environment, tmp_path, clip):
    environment.setenv("CLIPTEA_STORE", (tmp_path / "files").as_uri())
    wanted, wanted_batches = everything(clip)
    environment.setenv("CLIPTEA_STORE", f"s3://{BUCKET}/{tmp_path.name}")
    for method, kind in (("PUT", "500"), ("PUT", "503"), ("PUT", "reset"), ("GET", "500"), ("GET", "reset"),
                         ("GET", "truncate"), ("HEAD", "503")):  # fmt: skip
        proxy.fail(kind, 1, method)
    proxy.fail("corrupt", 1, "GET", "cls/00000-")
    proxy.fail("corrupt", 1, "GET", "regions/index-")
    found, found_batches = everything(clip)
    assert found == wanted
    assert proxy.injected == 9
    assert len(found_batches) == 3
    for one, two in zip(found_batches, wanted_batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_training_over_a_bad_network_ends_with_the_weights_of_a_disk(store, proxy, environment, tmp_path, clip):
    environment.setattr(s3_store, "LIMITS", QUICK)
    environment.setenv("CLIPTEA_STORE", (tmp_path / "files").as_uri())
    wanted = weights(prepare(clip))
    environment.setenv("CLIPTEA_STORE", f"s3://{BUCKET}/{tmp_path.name}")
    prepared, told = prepare(clip), []

    def die(curves):
        if len(told) == 1:
            raise KeyboardInterrupt
        told.append(curves)

    for kind in ("500", "503", "reset", "stall"):
        proxy.fail(kind, 1, "PUT", "checkpoints")
    proxy.fail("corrupt", 1, "GET", "/train/00000-")
    with pytest.raises(KeyboardInterrupt):
        weights(prepared, die)
    left = [entry.key for entry in store.entries("train/f/checkpoints")]
    assert left
    proxy.fail("corrupt", 1, "GET", "checkpoints/0")  # read once more, and not thrown away
    proxy.fail("truncate", 1, "GET", "checkpoints/0")
    warned = []
    environment.setattr(progress, "warn", warned.append)
    assert weights(prepared) == wanted
    assert warned == []
    assert proxy.injected == 7


def test_training_goes_on_while_the_server_is_away_and_leaves_its_model(mortal, own, environment, clip):
    environment.setenv("CLIPTEA_STORE", own.uri("").rstrip("/"))
    config, splits, teacher = prepare(clip)
    config = variant_groups.apply_delta(config, {"train": {"iterations": 12, "batch_size": 4, "log_every": 1}})
    warned, logged = [], []
    environment.setattr(progress, "warn", warned.append)

    def log(curves):
        logged.append(len(curves))
        if len(logged) == 6:  # all shards are read by now
            mortal.kill()
        if len(logged) == 12:  # the training is over, and its model has still to be stored
            threading.Timer(1, mortal.start).start()

    assert weights((config, splits, teacher), log)
    assert logged == list(range(1, 13))
    assert any("the checkpoint of iteration" in line and "was skipped" in line for line in warned)
    assert list(own.entries("train/f/checkpoints")) == []
