"""A student starts from the weights of a trained model, and its adapter and optimiser start fresh."""

import pytest
import safetensors.torch
import torch
from plain_network import BACKBONE

from cliptea import variant_groups
from cliptea.errors import ConfigError, NotFinite
from cliptea.manifest import Contents, Manifest, Output, publish, put_object, read_object
from cliptea.models import build_student
from cliptea.steps.train import TrainInputs, model_output, train_variant
from cliptea.storage import open_store
from cliptea.training.initial_state import InitialState
from cliptea.training.trainer import Trainer


@pytest.fixture
def config(world):
    train = {"iterations": 1, "batch_size": 8, "lr": 1e-6}
    return variant_groups.apply_delta(world.run.config, {"student": {"backbone": "demo_fpn"}, "train": train})


def trained(backbone, dim, seed=7):
    torch.manual_seed(seed)
    return build_student(backbone, dim).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("backbone", ["demo_fpn", BACKBONE])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_all_weights_are_those_of_the_model(world, config, backbone, prefix):
    text = world.text()
    chosen = variant_groups.apply_delta(config, {"student": {"backbone": backbone}})
    given = trained(backbone, text.seen_SD.shape[1])
    renamed = {f"{prefix}{name}": value for name, value in given.items()}
    warm = Trainer(chosen, text, 0, initial=InitialState("m", text.seen_SD.shape[1], renamed))
    cold = Trainer(chosen, text, 0)
    assert same(warm.student.state_dict(), given)
    assert not same(cold.student.state_dict(), given)
    assert same(warm.adapter.state_dict(), cold.adapter.state_dict())
    assert (warm.iteration, warm.optimiser.state_dict()["state"]) == (0, {})


def test_pretrained_weights_are_not_needed(world, config):
    chosen = variant_groups.apply_delta(config, {"student": {"pretrained": "none.pth"}, "train": {"init_from": "m"}})
    assert chosen.encoder_weights is False
    dim = world.text().seen_SD.shape[1]
    Trainer(chosen, world.text(), 0, initial=InitialState("m", dim, trained("demo_fpn", dim)))


def test_weights_that_do_not_fit_are_refused_in_one_line(world, config):
    dim = world.text().seen_SD.shape[1]
    weights = trained("demo_fpn", dim)
    missing = {name: value for name, value in weights.items() if name != "head.bias"}
    nan = weights | {"head.bias": torch.full((dim,), float("nan"))}
    huge = weights | {"head.bias": torch.full((dim,), 1e300, dtype=torch.float64)}  # infinite in float32
    for initial, kind, says in (
        (InitialState("m", dim + 1, weights), ConfigError, f"init_from=m has {dim + 1} features, and the teacher has"),
        (InitialState("m", dim, missing), ConfigError, r"m do not fit the student: 1 missing \(head\.bias\)"),
        (InitialState("m", dim, trained("demo_fpn", dim * 2)), ConfigError, "2 with another shape"),
        (InitialState("m", dim, nan), NotFinite, r"head\.bias of train\.init_from=m holds NaN or infinity"),
        (InitialState("m", dim, huge), NotFinite, r"head\.bias of train\.init_from=m holds NaN or infinity"),
    ):
        with pytest.raises(kind, match=says):
            Trainer(config, world.text(), 0, initial=initial)


def test_the_train_step_starts_from_the_stored_weights(world, config):
    store, dim = open_store(), world.text().seen_SD.shape[1]
    given = trained("demo_fpn", dim)
    inputs = []
    for name, weights in (("one", given), ("two", trained("demo_fpn", dim, seed=8))):
        fp = "0123456789abcde" + name[0]
        data = safetensors.torch.save(weights)
        output = Output("initial", fp)
        stored = {"model.safetensors": put_object(store, f"{output.prefix}/model.safetensors", data)}
        publish(store, output, Contents(stored, {"dim": dim}))
        chosen = variant_groups.apply_delta(config, {"train": {"init_from": "m"}})
        variant = world.run.variants[0].model_copy(update={"config": chosen})
        run = world.run.model_copy(update={"initial": {"m": Manifest(kind="initial", fingerprint=fp)}})
        inputs.append(TrainInputs(run=run, variant=variant, splits=world.splits, teacher=world.teacher))
    cold = inputs[0].model_copy(update={"variant": inputs[0].variant.model_copy(update={"config": config})})
    assert len({model_output(one).fingerprint for one in (*inputs, cold)}) == 3
    elsewhere = variant_groups.apply_delta(config, {"train": {"init_from": "n"}})
    moved = inputs[0].model_copy(
        update={
            "variant": inputs[0].variant.model_copy(update={"config": elsewhere}),
            "run": inputs[0].run.model_copy(update={"initial": {"n": inputs[0].run.initial["m"]}}),
        }
    )
    assert model_output(moved) == model_output(inputs[0])  # the same weights under another name
    manifest = train_variant(inputs[0])
    after = safetensors.torch.load(read_object(store, manifest.objects["model.safetensors"]))
    moves = [(after[name] - value).abs().max() for name, value in given.items() if name.endswith("weight")]
    assert 0 < max(moves) < 1e-3  # one small step away from them
