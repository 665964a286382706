"""Schedule, groups, augmentation, batches, and what a fingerprint knows."""

import traceback
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from cliptea import settings, variant_groups
from cliptea.data.records import read_array, read_view, record_name
from cliptea.errors import ServerAway
from cliptea.evaluation import scoring
from cliptea.method.vla import Adapter
from cliptea.models import build_student
from cliptea.run import Variant
from cliptea.steps.train import TrainInputs, model_output
from cliptea.training.batches import Batch, _Views, batches, photometric
from cliptea.training.distributed import World
from cliptea.training.optimiser import lr_factor, make_optimiser
from cliptea.training.trainer import Trainer


@pytest.mark.parametrize(("iterations", "warmup"), [(1000, 1500), (40000, 1500), (100, 0), (8, 1500)])
def test_the_schedule_is_a_ramp_and_a_line(iterations, warmup):
    ramp = min(warmup, int(0.05 * iterations))
    rates = np.array([lr_factor(i, iterations, warmup) for i in range(iterations + 1)])
    line = np.interp(np.arange(ramp, iterations + 1), [ramp, iterations], [1, 0])
    np.testing.assert_allclose(rates[ramp:], line, atol=1e-12)
    if ramp:
        np.testing.assert_allclose(rates[:ramp], np.interp(np.arange(ramp), [0, ramp], [1e-6, 1]), atol=1e-12)


@pytest.mark.parametrize(("generator", "factor"), [("null", 10), ("3", 3)])
def test_head_and_adapter_have_their_own_rates_and_vectors_do_not_decay(generator, factor):
    overrides = ["head_lr_factor=10", "lr_scale={demo_fpn: 0.5}", f"generator_lr_factor={generator}"]
    config = settings.load("demo", [f"train.{override}" for override in overrides])
    student, adapter = build_student("demo_fpn", 8), Adapter("mlp", 8)
    optimiser, _ = make_optimiser(student, adapter, config.train, "demo_fpn")
    base = config.train.lr * 0.5
    rates = {id(p): (g["initial_lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    decay = config.train.weight_decay
    assert rates[id(student.head.weight)] == (base * 10, decay)
    assert rates[id(student.head.bias)] == (base * 10, 0.0)
    assert rates[id(adapter.project[0].weight)] == (pytest.approx(base * factor), decay)
    first = next(student.encoder.parameters())
    assert rates[id(first)] == (base, decay)
    everything = [*student.parameters(), *adapter.parameters()]
    assert len(rates) == len(everything)


def test_photometric_change_is_bounded_and_decided_by_the_generator():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    changed = [photometric(image, np.random.default_rng(seed)) for seed in range(40)]
    again = [photometric(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(torch.equal(one, two) for one, two in zip(changed, again, strict=True))
    assert all(((c >= 0) & (c <= 255)).all() for c in changed)
    untouched = sum(torch.equal(c, image.float()) for c in changed)
    assert 0 < untouched < 20  # all four changes are left out once in sixteen


def test_text_of_unseen_classes_never_reaches_training(world):
    catalogue = world.splits.own.info["catalogue"]
    assert world.text().unseen_UD is None
    assert len(world.text().seen_SD) == len(catalogue["classes"]) - len(catalogue["unseen"])


def test_an_epoch_shows_every_view_once_and_labels_are_seen_indices(world):
    config = variant_groups.apply_delta(world.run.config, {"train": {"iterations": 8, "batch_size": 4}})
    shown = list(batches(config, world.data(), seed=3))
    ids = torch.cat([batch.image_ids_B for batch in shown]).tolist()
    assert sorted(ids) == list(range(32))
    assert ids != list(range(32))
    seen = len(world.text().seen_SD)
    labels = torch.cat([batch.labels_BCC.flatten() for batch in shown]).unique()
    assert ((labels < seen) | (labels == 255)).all()


def test_any_iteration_can_be_the_first(world):
    run, data = world.run, world.data()
    whole = list(batches(run.config, data, seed=1))
    rest = list(batches(run.config, data, seed=1, start=5))
    assert len(rest) == len(whole) - 5
    for one, two in zip(whole[5:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_loading_processes_do_not_change_the_data(world):
    run, data = world.run, world.data()
    assert get_worker_info() is None
    parallel = variant_groups.apply_delta(run.config, {"train": {"workers": 2}})
    for one, two in zip(batches(run.config, data, 1), batches(parallel, data, 1), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


class Strange(Exception):
    """An error that has no pickle, as of some libraries."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [ServerAway("S3 is away", "an answer", "wait"), KeyError("a"), Strange("one", "two")])
def test_an_error_while_loading_is_the_same_from_another_process(world, monkeypatch, error, workers):
    def fail(self, image, number, rng):
        raise error

    monkeypatch.setattr(_Views, "_view", fail)
    config = variant_groups.apply_delta(world.run.config, {"train": {"workers": workers}})
    with pytest.raises(type(error) if workers == 0 or type(error) is not Strange else RuntimeError) as caught:
        next(batches(config, world.data(), 1))
    told = "Strange: one and two" if type(caught.value) is RuntimeError else str(error)
    assert str(caught.value) == told
    assert getattr(caught.value, "todo", None) == getattr(error, "todo", None)
    if not isinstance(error, ServerAway):
        assert ", in fail" in "".join(traceback.format_exception(caught.value))  # for --debug


@pytest.mark.parametrize("size", [2, 4])
def test_processes_divide_each_batch_in_its_order(world, size):
    run, data = world.run, world.data()
    together = [batches(run.config, data, 1, start=3, world=World(rank, size)) for rank in range(size)]
    for whole, *own in zip(batches(run.config, data, 1, start=3), *together, strict=True):
        for name in Batch._fields:
            assert torch.equal(torch.cat([getattr(part, name) for part in own]), getattr(whole, name))


def test_processes_divide_each_micro_batch_in_its_order(world):
    config = variant_groups.apply_delta(world.run.config, {"train": {"accumulate": 2}})
    data, size = world.data(), 2
    together = [batches(config, data, 1, start=3, world=World(rank, size)) for rank in range(size)]
    for whole, *own in zip(batches(config, data, 1, start=3), *together, strict=True):
        parts = [ids for halves in zip(*(part.image_ids_B.chunk(2) for part in own), strict=True) for ids in halves]
        assert torch.equal(torch.cat(parts), whole.image_ids_B)


def test_image_labels_and_regions_are_flipped_together(world):
    run, data = world.run, world.data()
    views = {
        flip: _Views(variant_groups.apply_delta(run.config, {"train": {"flip": flip}}), data, 0) for flip in (0.0, 1.0)
    }
    for item in range(6):
        plain, flipped = views[0.0][item], views[1.0][item]
        for index in (0, 1, 2, 4):  # image, labels, valid, regions
            torch.testing.assert_close(flipped[index], plain[index].flip(-1))
        assert torch.equal(plain[3], flipped[3])  # the CLS token is that of the unflipped view


def test_padding_is_zero_after_normalisation(world):
    run, data = world.run, world.data()
    small = variant_groups.apply_delta(run.config, {"teacher": {"ratio_range": [0.3, 0.4]}})
    image, _, valid, *_ = _Views(small, data, 0)[0]
    assert 0 < valid.sum() < valid.numel()
    assert (image[:, ~valid] == 0).all()
    assert (image[:, valid] != 0).float().mean() > 0.9


def test_regions_lie_on_ignored_tokens_of_the_same_view(world):
    """Recomputed with NumPy from the view's own labels: a region exactly where half of a token's pixels are free."""
    run, data = world.run, world.data()
    config = variant_groups.apply_delta(run.config, {"train": {"flip": 0.0}})
    views = _Views(config, data, 0)
    regions = 0
    for image_id in range(12):
        item = views._view(image_id, 0, np.random.default_rng(0))
        view = read_view(views.images, image_id, 0, config.teacher, config.data.seed)
        grid = item[4].shape[0]
        side = config.teacher.crop // grid
        free = ((view.labels == 255) & view.valid).reshape(grid, side, grid, side).sum((1, 3))
        np.testing.assert_array_equal(item[4].numpy() != 255, free * 2 >= side * side)
        regions += (item[4].numpy() != 255).sum()
    assert regions > 0


def test_a_step_lowers_the_loss_it_minimises(world):
    run, data = world.run, world.data()
    config = variant_groups.apply_delta(run.config, {"train": {"warmup_iterations": 0, "iterations": 1000}})
    trainer = Trainer(config, world.text(), seed=0)
    batch = next(batches(config, data, 0))
    totals = [trainer.step(batch)["total"] for _ in range(12)]
    assert min(totals[-3:]) < totals[0]


def test_a_network_of_ones_own_counts_with_its_module(world, tmp_path, monkeypatch):
    run, splits, teacher = world
    monkeypatch.syspath_prepend(str(tmp_path))
    config = variant_groups.apply_delta(run.config, {"student": {"backbone": "own_net_of_fingerprints:build"}})
    variant = Variant(label="g/a", seed=0, members=[], config=config)

    def fp(source):
        (tmp_path / "own_net_of_fingerprints.py").write_text(source)
        return model_output(TrainInputs(run=run, variant=variant, splits=splits, teacher=teacher)).fingerprint

    first = fp("def build(channels): ...")
    assert first == fp("def build(channels): ...") != fp("def build(channels): ...  # with GELU")


@pytest.mark.parametrize("method", [{}, {"unit_query": True}, {"global_token": "max"}, {"global_token": "mean"}])
def test_shown_attention_is_that_of_training_without_padding(world, method, monkeypatch):
    """Against eq. 1 and its variants in NumPy, on a view whose lower half is padding."""
    config = variant_groups.apply_delta(world.run.config, {"method": method})
    data = world.data(config)
    name, dim = data.images.name(0), world.text().seen_SD.shape[1]
    view = read_view(data.images, name, 0, config.teacher, config.data.seed)
    view.valid[len(view.valid) // 2 :] = False
    monkeypatch.setattr(scoring, "read_view", lambda *_: view)
    features_DL = torch.randn(dim, 16 * 16, generator=torch.Generator().manual_seed(0)).numpy()
    student = Mock(return_value=torch.from_numpy(features_DL).reshape(1, dim, 16, 16))
    maps = scoring.attention_maps(student, data.images, data.cls, [name], config)
    query_D = read_array(data.cls, record_name(name, 0)).astype(np.float64)
    seen_DL = features_DL[:, : 8 * 16].astype(np.float64)
    if method.get("unit_query"):
        query_D /= np.linalg.norm(query_D)
    weights_L = np.exp(query_D @ seen_DL / np.sqrt(dim))
    weights_L /= weights_L.sum()
    if method.get("global_token") == "max":
        weights_L = np.bincount(seen_DL.argmax(1), minlength=8 * 16) / dim
    if method.get("global_token") == "mean":
        weights_L = np.full(8 * 16, 1 / (8 * 16))
    np.testing.assert_allclose(maps[f"attention/{name}"][:8].ravel(), weights_L, rtol=1e-4, atol=1e-7)
    assert not maps[f"attention/{name}"][8:].any()


def test_the_fingerprint_knows_what_matters(world):
    run, splits, teacher = world

    def changed(delta, seed=0):
        variant = Variant(label="g/a", seed=seed, members=[], config=variant_groups.apply_delta(run.config, delta))
        return model_output(TrainInputs(run=run, variant=variant, splits=splits, teacher=teacher))

    base = changed({})

    assert changed({"train": {"checkpoint_every": 3, "workers": 1, "keep_checkpoints": 1}}) == base
    assert changed({"train": {"processes": 2, "compile": True, "channels_last": True}}) == base
    assert changed({"evaluation": {"gamma": 9.0}}) == base
    assert changed({"evaluation": {"scale": [128, 128]}}) == base
    validated = changed({"train": {"validate_every": 4}})
    assert changed({"train": {"validate_every": 4}, "evaluation": {"gamma": 9.0, "figures": 1}}) == validated
    others = [
        changed({}, seed=1),
        changed({"train": {"lr": 1.0}}),
        changed({"train": {"accumulate": 2}}),
        changed({"train": {"clip_norm": 1.0}}),
        validated,
        changed({"train": {"validate_every": 4, "held_out": 0.2}}),
        changed({"train": {"validate_every": 4, "keep": "best"}}),
        changed({"train": {"validate_every": 4, "patience": 2}}),
        changed({"train": {"validate_every": 4}, "evaluation": {"scale": [128, 128]}}),
        changed({"method": {"temperature": 1.0}}),
        changed({"student": {"backbone": "segformer_b0"}}),
    ]
    assert len({base, *others}) == 12
