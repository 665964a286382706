"""Validation while training: what is scored, that training does not notice, and what is kept when it is interrupted."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from naive_logits import class_logits
from sklearn.metrics import jaccard_score
from whole_training import assert_same_model, killed, train, weights

from cliptea import variant_groups
from cliptea.data.records import read_pair
from cliptea.errors import DataError, NotFinite
from cliptea.manifest import Output, read_object
from cliptea.segment.segmenter import load_student
from cliptea.storage import FileStore
from cliptea.training import batches as batches_module
from cliptea.training.batches import batches, mean_region_token
from cliptea.training.distributed import World
from cliptea.training.history import HELD_OUT
from cliptea.training.loop import train_student
from cliptea.training.loss_terms import TextFeatures
from cliptea.training.trainer import Trainer
from cliptea.training.validation import Validation

HELD = 6  # of the 32 images


def never():
    return False


@pytest.fixture
def changed(world):
    """Settings of a short training in which the score falls soon, so that it is worth to keep the best weights."""

    def config(**train):
        plain = {"iterations": 6, "batch_size": 4, "checkpoint_every": 2, "log_every": 2, "lr": 0.02}
        scored = {"validate_every": 1, "held_out": HELD / 32}
        delta = {"student": {"backbone": "demo_fpn", "dropout": 0.1}, "train": {**plain, **scored, **train}}
        return variant_groups.apply_delta(world.run.config, delta)

    return config


def points(folder, manifest):
    return json.loads(read_object(FileStore(folder), manifest.objects["history.json"]))


def scores(folder, manifest):
    return {point["iteration"]: point[HELD_OUT] for point in points(folder, manifest) if HELD_OUT in point}


def test_held_out_images_are_never_trained_on_and_all_others_are(world, changed):
    config = changed(iterations=13)  # two epochs of 26 images
    data = world.data(config)
    assert len(data.held_out) == HELD
    shown = torch.cat([batch.image_ids_B for batch in batches(config, data, seed=3)]).tolist()
    rest = sorted(set(range(32)) - set(data.held_out))
    assert sorted(shown[:26]) == sorted(shown[26:]) == rest
    assert world.data(changed(validate_every=0, held_out=0.1)).held_out == []


def test_the_mean_of_regions_is_that_of_trained_images(monkeypatch):
    monkeypatch.setattr(batches_module, "read_array", lambda regions, record, kind: np.full((2, 3), record, np.float32))
    assert mean_region_token(None, [1, 2, 6]).tolist() == [3.0] * 3
    assert mean_region_token(None, range(10), views=5).tolist() == [4.0] * 3  # of 0, 2, 4, 6 and 8


def test_the_score_is_scikit_learns_and_the_student_is_the_kept_one(world, changed, tmp_path):
    """Recomputed from the stored model: argmax over the seen classes, on all labelled pixels together."""
    config = changed(iterations=2, validate_every=2)
    manifest, logged = train(World(), tmp_path, world, config)
    student = load_student("demo_fpn", manifest.info["dim"], weights(tmp_path, manifest))
    data, text_SD = world.data(config), world.text().seen_SD
    true, predicted = [], []
    for number in data.held_out:
        image, labels = read_pair(data.images, number)
        mask = class_logits(student, image, text_SD, config.evaluation).argmax(0).numpy()
        true.append(labels[labels != 255])
        predicted.append(np.array(data.seen_ids)[mask[labels != 255]])
    true, predicted = np.concatenate(true), np.concatenate(predicted)
    assert set(np.unique(true)) <= set(data.seen_ids)
    classes = np.union1d(true, predicted)
    wanted = jaccard_score(true, predicted, labels=classes, average="macro")
    found = manifest.info["validation"]
    assert found[HELD_OUT] == pytest.approx(wanted, rel=1e-9)
    assert 0 < wanted < 1
    assert (found["iteration"], found["validations"], found["images"]) == (2, 1, HELD)
    assert found["seconds"] > 0
    assert logged[-1][-1][HELD_OUT] == found[HELD_OUT]


def test_a_training_with_validation_ends_with_the_same_weights(world, changed, tmp_path):
    """Bit for bit the student that is trained on the same images without it."""
    config = changed(iterations=3)
    manifest, _ = train(World(), tmp_path / "with", world, config)
    alone, store = changed(iterations=3, validate_every=0, held_out=0.1), FileStore(tmp_path / "without")
    data = world.data(alone)._replace(held_out=world.data(config).held_out)
    plain = train_student(store, Output("train", "fp"), alone, 1, data, world.text(), [].append)
    one, other = weights(tmp_path / "with", manifest), weights(tmp_path / "without", plain)
    assert one.keys() == other.keys()
    assert all(np.array_equal(tensor, other[name]) for name, tensor in one.items())
    assert "validation" not in plain.info
    assert scores(tmp_path / "with", manifest).keys() == {1, 2, 3}
    assert scores(tmp_path / "without", plain) == {}


def test_validation_changes_neither_state_nor_random_numbers(world, plain_config):
    """Of the whole trainer, in the setting with an averaged student."""
    method = {"generator": "region", "clustering": {"region_tokens": "crop"}, "transductive": {"names": True}}
    config = plain_config(train={"validate_every": 1, "held_out": HELD / 32}, method=method)
    seen_SD = world.text().seen_SD
    width = seen_SD.shape[1]
    trainer = Trainer(config, TextFeatures(seen_SD, torch.randn(2, width), torch.randn(width)), seed=0)
    data = world.data(plain_config(train={"validate_every": 1, "held_out": HELD / 32}))
    validation = Validation(trainer, data)
    trainer.iteration, trainer.history.curves = 1, [{"iteration": 1, "total": 1.0}]

    def noticed():
        state = {name: part for name, part in trainer.state().items() if name != "history"}
        generators = (torch.get_rng_state(), random.getstate(), np.random.get_state())
        modes = [module.training for module in trainer.student.modules()]
        return json.dumps([state, generators, modes], default=lambda it: it.tolist() if hasattr(it, "tolist") else it)

    before = noticed()
    assert "average" in json.loads(before)[0]["self_training"]
    assert validation.validate(never)
    assert noticed() == before
    assert validation.scores.keys() == {1}


def scored(group, world, config):
    trainer = Trainer(config, world.text(), 3, group)
    trainer.iteration, trainer.history.curves = 1, [{"iteration": 1}]
    validation = Validation(trainer, world.data(config))
    assert validation.validate(never)
    return validation.scores[1], validation._confusion(trainer.student.state_dict(), never)


def test_the_number_of_processes_does_not_change_the_score(together, world, changed):
    ((score, matrix),) = together(1, scored, world, changed(batch_size=12))
    assert (matrix.sum(1) > 0).sum() > 1
    assert (matrix.sum(0) > 0).sum() > 1
    for other_score, other_matrix in together(4, scored, world, changed(batch_size=12)):
        assert other_score == score
        assert np.array_equal(other_matrix, matrix)


def test_the_best_weights_are_kept_and_patience_ends_the_training(together, world, changed, tmp_path, monkeypatch):
    step, seen = Trainer.step, {}

    def kept(self, batch):
        terms = step(self, batch)
        seen[self.iteration] = {name: tensor.clone() for name, tensor in self.student.state_dict().items()}
        return terms

    monkeypatch.setattr(Trainer, "step", kept)
    config = changed(keep="best", patience=2)
    manifest, _ = train(World(), tmp_path / "one", world, config)
    found = scores(tmp_path / "one", manifest)
    best = max(found, key=found.get)
    assert manifest.info["validation"]["iteration"] == best
    assert manifest.info["validation"][HELD_OUT] == found[best]
    assert best + 2 == max(found) == manifest.info["iterations"] == max(seen) < 6
    model = weights(tmp_path / "one", manifest)
    assert all(np.array_equal(tensor, model[name]) for name, tensor in seen[best].items())
    assert any(not np.array_equal(tensor, model[name]) for name, tensor in seen[max(seen)].items())
    (first, _), (second, _) = together(2, train, tmp_path / "two", world, config)
    assert first == second
    assert first.info["iterations"] == first.info["validation"]["iteration"] + 2 < 6


def killed_and_resumed(world, config, folder, iterations):
    whole, _ = train(World(), folder / "whole", world, config)
    for iteration in iterations:
        killed(folder / "cut", world, config, iteration)
    manifest, _ = train(World(), folder / "cut", world, config)
    assert_same_model(folder / "whole", whole, folder / "cut", manifest)
    for fact in ("iteration", HELD_OUT, "validations", "images"):
        assert manifest.info["validation"][fact] == whole.info["validation"][fact]
    assert manifest.info["iterations"] == whole.info["iterations"]
    return whole


def test_killed_at_any_step_it_keeps_the_same_best_and_stops_at_the_same_iteration(world, changed, tmp_path):
    """The best weights are of an iteration before the last checkpoint, from which it goes on."""
    config = changed(keep="best", patience=3, checkpoint_every=3)
    whole = killed_and_resumed(world, config, tmp_path, [2, 4])
    assert whole.info["validation"]["iteration"] < 3 < whole.info["iterations"] < 6


def sigterm_in_validation(group, folder, world, config, at):
    """Train, and send SIGTERM to the last process while it scores an image of that validation."""
    confused = Validation._confused

    def struck(self, *given):
        if self._trainer.iteration == at and group.rank == group.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return confused(self, *given)

    Validation._confused = struck
    try:
        return train(group, folder, world, config)
    finally:
        Validation._confused = confused


@pytest.mark.parametrize(("size", "at"), [(1, 3), (2, 3), (1, 1)])
def test_sigterm_ends_a_validation_which_is_made_anew(together, world, changed, tmp_path, size, at):
    config = changed(iterations=3, keep="best", checkpoint_every=100)
    ((whole, _), *_) = together(size, train, tmp_path / "whole", world, config)
    for stopped, logged in together(size, sigterm_in_validation, tmp_path / "cut", world, config, at):
        assert stopped == (75, at)
        assert logged == []
    (entry,) = FileStore(tmp_path / "cut").entries("train/fp/checkpoints")
    state = torch.load(tmp_path / "cut" / entry.key, weights_only=True)
    assert [point["iteration"] for point in state["history"]["curves"] if HELD_OUT in point] == [*range(1, at)]
    ((manifest, _), *_) = together(size, train, tmp_path / "cut", world, config)
    assert_same_model(tmp_path / "whole", whole, tmp_path / "cut", manifest)


def due(world, config, data):
    trainer = Trainer(config, world.text(), 0)
    trainer.iteration, trainer.history.curves = 1, [{"iteration": 1}]
    return trainer, Validation(trainer, data)


def test_images_without_a_seen_class_and_broken_weights_are_errors_and_no_score(world, changed):
    config = changed(keep="best")
    _, validation = due(world, config, world.data(config)._replace(seen_ids=[]))
    with pytest.raises(DataError, match=rf"no seen class is in the {HELD} held-out images.*raise train\.held_out"):
        validation.validate(never)
    assert (validation.scores, validation.best_weights) == ({}, None)
    trainer, validation = due(world, config, world.data(config))
    trainer.student.head.bias.data[0] = torch.nan
    with pytest.raises(NotFinite, match=r"head\.bias"):
        validation.validate(never)
    trainer.student.head.bias.data[0] = 3e38  # a sum that overflows
    trainer.student.head.weight.data.fill_(3e38)
    with pytest.raises(NotFinite, match="held-out image"):
        validation.validate(never)
    assert (validation.scores, validation.best_weights) == ({}, None)


def test_equal_scores_keep_the_first(world, changed):
    trainer, validation = due(world, changed(keep="best", patience=2), None)
    found = [0.2, 0.5, 0.4, 0.5]
    for number in range(1, 5):
        trainer.history.curves = [{"iteration": place + 1, HELD_OUT: found[place]} for place in range(number)]
        assert validation.is_hopeless == (number == 4)
    assert validation.best == validation.kept == 2


def test_a_training_whose_patience_ends_at_its_last_iteration_has_not_stopped_early(world, changed):
    config = changed(keep="best", patience=2)
    trainer, validation = due(world, config, world.data(config))
    last = config.train.iterations
    for iteration, begins in ((last - 1, f"stopped early at iteration {last - 1}, validated"), (last, "validated")):
        trainer.iteration = iteration
        trainer.history.curves = [{"iteration": number, HELD_OUT: 1 / number} for number in range(1, iteration + 1)]
        assert validation.is_hopeless
        assert validation.conclusion().startswith(f"{begins} {iteration} times")
