"""The whole training of a student: what it leaves behind, and however it is interrupted, the same model."""

import json
import signal

import pytest
from whole_training import assert_same_model, killed, train

from cliptea import progress, variant_groups
from cliptea.data.views import generator
from cliptea.errors import ConfigError
from cliptea.manifest import Contents, Output, find, publish, put_immutable, read_object
from cliptea.storage import FileStore
from cliptea.training.distributed import World
from cliptea.training.history import History

ITERATIONS = 6


@pytest.fixture
def config(world):
    train = {"iterations": ITERATIONS, "batch_size": 8, "checkpoint_every": 2, "log_every": 2}
    return variant_groups.apply_delta(world[0].config, {"student": {"backbone": "demo_fpn"}, "train": train})


def test_a_training_leaves_a_model_and_its_measures(world, config, tmp_path):
    manifest, logged = train(World(), tmp_path, world, config)
    store = FileStore(tmp_path)
    left = {entry.key for entry in store.entries("train")}
    assert left == {"train/fp/manifest.json", *(item.key for item in manifest.objects.values())}
    info = manifest.info
    assert info["images_per_second"] == pytest.approx(ITERATIONS * 8 / info["seconds"])
    assert info["data_wait"] > 0
    assert info["processes"] == 1
    curves = json.loads(read_object(store, manifest.objects["history.json"]))
    assert [point["iteration"] for point in curves] == [2, 4, 6]
    assert logged[-1] == curves


def test_of_two_trainings_of_one_student_the_first_that_ends_counts(world, config, tmp_path, monkeypatch):
    """Their weights may differ on a GPU, and the steps after the first one use its weights."""
    output, published = Output("train", "fp"), []
    closing = History.summary

    def end_first(self, images):
        if not published:
            item = put_immutable(FileStore(tmp_path), "train/fp/model", ".safetensors", b"those of the other run")
            published.append(publish(FileStore(tmp_path), output, Contents({"model.safetensors": item}, {})))
        return closing(self, images)

    monkeypatch.setattr(History, "summary", end_first)
    manifest, _ = train(World(), tmp_path, world, config)
    assert manifest == published[0] == find(FileStore(tmp_path), output)


@pytest.mark.parametrize("size", [1, 2])
def test_sigterm_saves_after_the_step_and_the_next_training_goes_on(together, world, config, tmp_path, size):
    """Sent to the last process only: all of them leave after the same step."""
    config = variant_groups.apply_delta(config, {"train": {"checkpoint_every": 100, "workers": 1 if size == 1 else 0}})
    ((whole, _), *_) = together(size, train, tmp_path / "whole", world, config)
    for stopped, logged in together(size, train, tmp_path / "cut", world, config, (3, size - 1, signal.SIGTERM)):
        assert stopped == (75, 3)
        assert logged == []
    first, *others = together(size, train, tmp_path / "cut", world, config)
    assert all(manifest == first[0] for manifest, _ in others)
    assert_same_model(tmp_path / "whole", whole, tmp_path / "cut", first[0])


def test_sigterm_in_the_last_step_is_too_late(world, config, tmp_path):
    manifest, _ = train(World(), tmp_path, world, config, (ITERATIONS, 0, signal.SIGTERM))
    assert manifest.info["iterations"] == ITERATIONS
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_killed_at_random_steps_it_ends_with_the_same_model(world, config, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(progress, "note", notes.append)
    whole, _ = train(World(), tmp_path / "whole", world, config)
    for iteration in [*sorted(generator("kills").integers(2, ITERATIONS, 3).tolist()), ITERATIONS]:
        killed(tmp_path / "cut", world, config, iteration)
    manifest, _ = train(World(), tmp_path / "cut", world, config)
    assert_same_model(tmp_path / "whole", whole, tmp_path / "cut", manifest)
    # The last one may not have been whole when the process was killed; then it was the one before.
    (note,) = notes
    assert note in {f"resuming from the checkpoint at iteration {ITERATIONS - back}" for back in (2, 4)}


def test_processes_that_cannot_share_a_batch_are_refused(world, config, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be divided into 3 equal parts \(3 processes\).*multiple of 3"):
        train(World(0, 3), tmp_path, world, config)


def test_a_single_image_for_upernet_is_refused(world, config, tmp_path):
    alone = variant_groups.apply_delta(config, {"student": {"backbone": "convnext_atto"}, "train": {"accumulate": 8}})
    with pytest.raises(ConfigError, match="convnext_atto cannot train with one image at a time; expected two or more"):
        train(World(), tmp_path, world, alone)
