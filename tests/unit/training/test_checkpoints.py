"""Checkpoints: beside the training, the newest whole one, and exact resumption."""

import hashlib
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
import torch

from cliptea import outage, progress, variant_groups
from cliptea.data.views import generator
from cliptea.errors import NotFinite, ServerAway, StorageError, Unusable
from cliptea.outage import Outage
from cliptea.storage import FileStore
from cliptea.training.batches import batches
from cliptea.training.checkpoint import Checkpoints
from cliptea.training.distributed import World
from cliptea.training.trainer import Trainer

SEED = 5
ITERATIONS = 6


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


@pytest.fixture
def told(monkeypatch):
    """What the user is told."""
    lines = []
    monkeypatch.setattr(progress, "warn", lines.append)
    return lines


def save_all(store, iterations, keep=2):
    with Checkpoints(store, "train/x/checkpoints", keep) as checkpoints:
        for iteration in iterations:
            checkpoints.save(iteration, {"iteration": iteration, "weights": torch.full((1000,), float(iteration))})


def last(store):
    with Checkpoints(store, "train/x/checkpoints", 2) as checkpoints:
        return checkpoints.last()


@pytest.mark.parametrize(("keep", "kept"), [(1, [30]), (2, [20, 30]), (5, [10, 20, 30])])
def test_the_newest_are_kept(store, keep, kept):
    save_all(store, [10, 20, 30], keep)
    names = [entry.key.rpartition("/")[2] for entry in store.entries("train/x/checkpoints")]
    assert [int(name.split("-")[0]) for name in names] == kept
    assert last(store)["iteration"] == 30


FOREIGN = ["desktop.ini", ".DS_Store", "0-old.pt", "000000040-best.pt", "old/000000010-" + "0" * 32 + ".pt", "x" * 40]


def test_files_of_somebody_else_are_no_checkpoints_and_stay(store):
    for name in FOREIGN:
        store.put(f"train/x/checkpoints/{name}", b"precious")
    save_all(store, [10, 20, 30], keep=1)
    assert last(store)["iteration"] == 30
    with Checkpoints(store, "train/x/checkpoints", 1) as checkpoints:
        checkpoints.clear()
    left = {entry.key.removeprefix("train/x/checkpoints/") for entry in store.entries("train/x/checkpoints")}
    assert left == set(FOREIGN)


def test_without_a_checkpoint_there_is_none(store):
    assert last(store) is None


def flip(data):
    return data[:-300] + bytes([data[-300] ^ 1]) + data[-299:]


@pytest.mark.parametrize("damage", [flip, lambda data: data[: len(data) // 2], lambda data: b""])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(store, told, damage):
    save_all(store, [10, 20])
    newest = list(store.entries("train/x/checkpoints"))[-1].key
    store.put(newest, damage(store.get(newest)))
    assert last(store)["iteration"] == 10
    (line,) = told
    assert newest in line
    assert "damaged" in line
    assert store.size(newest) is None
    for entry in list(store.entries("train/x/checkpoints")):
        store.put(entry.key, damage(store.get(entry.key)))
    assert last(store) is None


class Shared(FileStore):
    """A store in which another run of the same student writes and deletes right before this one reads."""

    def __init__(self, root, other):
        super().__init__(root)
        self.other = other

    def get(self, key, start=0, length=None):
        other, self.other = self.other, lambda: None
        other()
        return super().get(key, start, length)


def test_a_checkpoint_that_another_run_deletes_meanwhile_is_passed_over(store, told):
    save_all(store, [10, 20])
    newest = list(store.entries("train/x/checkpoints"))[-1].key
    assert last(Shared(store.root, lambda: store.delete(newest)))["iteration"] == 10
    assert told == []


def test_the_checkpoint_that_another_run_writes_meanwhile_is_taken(store):
    save_all(store, [10, 20])
    assert last(Shared(store.root, lambda: save_all(store, [30, 40])))["iteration"] == 40


def test_without_any_checkpoint_left_training_starts_anew(store):
    def clear():
        with Checkpoints(store, "train/x/checkpoints", 2) as checkpoints:
            checkpoints.clear()

    save_all(store, [10, 20])
    assert last(Shared(store.root, clear)) is None


class Second(World):
    """The second of two processes, which is told the keys that the first one has read."""

    keys: ClassVar[list[str]] = []

    def agree(self, value):
        assert value is None
        return self.keys.pop(0)

    def any(self, flag):
        return flag


def test_processes_look_again_if_one_of_them_finds_no_checkpoint_any_more(store):
    save_all(store, [10])
    (kept,) = [entry.key for entry in store.entries("train/x/checkpoints")]
    gone = kept.replace("000000010", "000000005")
    Second.keys = [gone, kept]
    with Checkpoints(store, "train/x/checkpoints", 2, Second(1, 2)) as checkpoints:
        assert checkpoints.last()["iteration"] == 10
        Second.keys = [gone] * 3  # for example, a pod with another store
        with pytest.raises(StorageError, match=f"the object .*{gone} is missing"):
            checkpoints.last()


class Slow(FileStore):
    """A store that does not answer until it is let go."""

    def __init__(self, root):
        super().__init__(root)
        self.asked, self.go = threading.Event(), threading.Event()

    def put(self, key, data):
        self.asked.set()
        assert self.go.wait(30)
        super().put(key, data)


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x80\x04cos\nsystem\n", b"PK\x03\x04"])
def test_what_nobody_trained_is_refused_in_one_line(store, content):
    digest = hashlib.sha256(content).hexdigest()[:32]
    store.put(f"run/000000001-{digest}.pt", content)
    with Checkpoints(store, "run", 1) as checkpoints, pytest.raises(StorageError, match=digest) as error:
        checkpoints.last()
    assert "\n" not in str(error.value)


def test_too_little_memory_for_a_checkpoint_is_no_damage(store, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    save_all(store, [10])
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(Unusable, match=r"^cannot read the checkpoint .*: memory is exhausted .*; give it more memory"):
        last(store)


def test_training_goes_on_while_a_copy_is_written(tmp_path):
    slow = Slow(tmp_path)
    weights = torch.zeros(3)
    with Checkpoints(slow, "c", 2) as checkpoints:
        checkpoints.save(1, {"weights": weights, "nested": [{"same": weights}]})
        assert slow.asked.wait(30)
        assert list(slow.entries("c")) == []
        weights += 1
        slow.go.set()
        checkpoints.wait()
        assert checkpoints.last()["weights"].tolist() == [0, 0, 0]
        assert checkpoints.last()["nested"][0]["same"].tolist() == [0, 0, 0]


def test_a_failed_write_is_raised(tmp_path):
    class Full(FileStore):
        def put(self, key, data):
            raise OSError("no space left")

    checkpoints = Checkpoints(Full(tmp_path), "c", 2)
    checkpoints.save(1, {})
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(2, {})


class Full(FileStore):
    def put(self, key, data):
        raise Unusable("the disk is full")


def test_a_checkpoint_that_is_no_longer_needed_fails_nothing(tmp_path, told):
    with Checkpoints(Full(tmp_path), "c", 2) as checkpoints:
        checkpoints.save(1, {})
        checkpoints.clear()
    assert "a checkpoint could not be stored: the disk is full" in told


def test_a_checkpoint_hides_no_other_error(tmp_path, told):
    def train(error):
        with Checkpoints(Full(tmp_path), "c", 2) as checkpoints:
            checkpoints.save(1, {})
            if error is not None:
                raise error

    with pytest.raises(NotFinite, match="diverged"):
        train(NotFinite("training has diverged"))
    with pytest.raises(Unusable, match="full"):
        train(None)


class Away(FileStore):
    """A store whose server refuses connections for some seconds, and is waited for."""

    def __init__(self, root, seconds, patience):
        super().__init__(root)
        self.back, self.patience = time.monotonic() + seconds, patience

    def put(self, key, data):
        absence = Outage("the store", self.patience)
        while time.monotonic() < self.back:
            if not absence.wait("Connection refused"):
                raise ServerAway("the store cannot be reached")
        absence.over()
        super().put(key, data)


def kept(store):
    return [int(entry.key.rpartition("/")[2].split("-")[0]) for entry in store.entries("c")]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(outage, "LONGEST_PAUSE", 0.1)


def test_training_does_not_stand_still_while_the_store_is_away(tmp_path, told, quick):
    store = Away(tmp_path, 1.5, 30)
    with Checkpoints(store, "c", 5) as checkpoints:
        began = time.monotonic()
        for iteration in (1, 2, 3):
            checkpoints.save(iteration, {})
        assert time.monotonic() - began < 1
        checkpoints.wait()
        checkpoints.save(4, {})
    assert kept(store) == [1, 4]
    skipped = [line for line in told if "the checkpoint of iteration" in line and "was skipped" in line]
    assert [line.partition(" was skipped")[0][-1] for line in skipped] == ["2", "3"]


def test_a_checkpoint_that_could_not_be_written_is_a_warning(tmp_path, told, quick):
    store = Away(tmp_path, 1.0, 0.2)
    with Checkpoints(store, "c", 5) as checkpoints:
        checkpoints.save(1, {})
        time.sleep(1.2)
        checkpoints.save(2, {})
    assert kept(store) == [2]
    assert "a checkpoint could not be stored: the store cannot be reached" in told


def test_the_last_checkpoint_must_land(tmp_path, told, quick):
    store = Away(tmp_path, 1.0, 30)
    with Checkpoints(store, "c", 5) as checkpoints:
        checkpoints.save(1, {})
        checkpoints.save_last(2, {})
        assert kept(store) == [1, 2]
    with Checkpoints(Away(tmp_path, 60, 0.2), "c", 5) as checkpoints, pytest.raises(ServerAway):
        checkpoints.save_last(3, {})


def test_what_is_stored_before_the_last_checkpoint_is_named(store, monkeypatch):
    """A pod may be killed while it saves, and then this is the last that is heard of it."""
    told = []
    monkeypatch.setattr(progress, "note", told.append)
    for iterations in ([], [10, 20], []):
        with Checkpoints(store, "c", 2) as checkpoints:
            checkpoints.last()
            for iteration in iterations:
                checkpoints.save(iteration, {})
            checkpoints.save_last(25, {})
    first, *later = (line.removeprefix("stopping: saving the checkpoint of iteration 25; ") for line in told)
    assert first == "no other one is stored"
    assert later == [f"the last stored one is of iteration {iteration}" for iteration in (20, 25)]


def train(group, world, config, folder, begin=0, end=ITERATIONS, seed=SEED):
    """Train from the last checkpoint in `folder`, or from iteration 0, to `end`; weights, curves, bank."""
    trainer = Trainer(config, world.text(), seed, group)
    with Checkpoints(FileStore(folder), "c", 2, group) as checkpoints:
        state = checkpoints.last()
        if state is not None:
            trainer.restore(state)
        assert trainer.iteration == begin
        for batch in batches(config, world.data(config), SEED, begin, group):
            trainer.history.pending.append(trainer.step(batch))
            if trainer.iteration == end:
                break
        checkpoints.save(end, trainer.state())
    weights = {**trainer.student.state_dict(), **trainer.adapter.state_dict()}
    state = {name: tensor.numpy() for name, tensor in weights.items()}
    return state, [terms["total"] for terms in trainer.history.pending], trainer.bank.tokens.numpy()


def config_of(world, backbone="demo_fpn", **train):
    """With dropout in student and adapter, and batch norms."""
    delta = {"iterations": ITERATIONS, "batch_size": 8, **train}
    return variant_groups.apply_delta(world[0].config, {"student": {"backbone": backbone}, "train": delta})


def assert_equal(one, other):
    assert one[1] == other[1]
    assert np.array_equal(one[2], other[2])
    for name, weight in one[0].items():
        assert np.array_equal(weight, other[0][name]), name


@pytest.mark.parametrize("size", [1, 2])
def test_going_on_from_any_iteration_gives_the_same_weights_bit_for_bit(together, world, tmp_path, size):
    config = config_of(world, accumulate=2 if size == 1 else 1)
    whole = together(size, train, world, config, tmp_path / "whole")
    for cut in sorted(generator("cut", size).permutation(np.arange(1, ITERATIONS))[:2].tolist()):
        folder = tmp_path / f"cut{cut}"
        together(size, train, world, config, folder, 0, cut)
        torch.manual_seed(999)
        for one, two in zip(whole, together(size, train, world, config, folder, cut, ITERATIONS, SEED), strict=True):
            assert_equal(one, two)


def test_another_number_of_processes_goes_on(together, world, plain_config, tmp_path):
    """Without dropout and batch norms the rest is the same but for rounding."""
    config = plain_config(train={"iterations": ITERATIONS})
    (alone,) = together(1, train, world, config, tmp_path / "alone")
    together(2, train, world, config, tmp_path / "both", 0, 3)
    (rest,) = together(1, train, world, config, tmp_path / "both", 3)
    np.testing.assert_allclose(rest[1], alone[1], rtol=1e-3)
    np.testing.assert_allclose(rest[2], alone[2], rtol=1e-5)


def test_dropout_is_drawn_anew_in_each_iteration_and_for_each_seed(world, tmp_path):
    config = config_of(world)
    trainer = Trainer(config, world.text(), SEED)

    def drawn(iteration, seed, *key):
        trainer.iteration, trainer.seed = iteration, seed
        trainer._draw_from(*key)
        return torch.rand(1).item()

    keys = [
        (iteration, seed, part, rank) for iteration in (0, 1) for seed in (0, 1) for part in (0, 1) for rank in (0, 1)
    ]
    assert len({drawn(*key) for key in keys}) == len(keys)
    assert drawn(3, 0, 1) == drawn(3, 0, 1)
