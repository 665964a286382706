"""One, two and four processes: the same losses and weights up to rounding; and what they tell each other."""

from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from random_batches import DIM, SEEN, make_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cliptea import variant_groups
from cliptea.training import torchrun
from cliptea.training.distributed import World, join
from cliptea.training.loss_terms import TextFeatures
from cliptea.training.trainer import Trainer


class Trained(NamedTuple):
    curve: list  # of the loss terms of every iteration
    weights: dict
    gradients: dict  # of the last iteration
    bank: list


def train(world, config, seed=3):
    """Train on random batches, of which every process sees its part."""
    torch.manual_seed(world.rank + 100)  # nothing may hang on this
    text = nn.functional.normalize(torch.randn(SEEN, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    trainer = Trainer(config, TextFeatures(text, *further_text(config)), seed, world)
    parts = config.train.accumulate
    rows = torch.arange(config.train.batch_size).view(parts, world.size, -1)[:, world.rank].flatten()
    curve = []
    for iteration in range(config.train.iterations):
        # every third batch without a pseudo class, every fourth without a label; few labels else
        unlabelled = 0.0 if iteration % 3 == 2 else 1.0 if iteration % 4 == 3 else 0.9
        batch = make_batch(iteration, config.train.batch_size, unlabelled)
        curve.append(trainer.step(type(batch)(*(tensor[rows] for tensor in batch))))
    weights = {**trainer.student.state_dict(), **trainer.adapter.state_dict()}
    for name in [name for name in weights if name.endswith("in_proj_bias")]:
        # A bias of the keys shifts all scores alike: its gradient is rounding, which Adam makes a step of.
        weights[name] = weights[name].view(3, -1)[[0, 2]]
    weights = {name: tensor.numpy() for name, tensor in weights.items()}
    named = (*trainer.student.named_parameters(), *trainer.adapter.named_parameters())
    gradients = {name: parameter.grad.numpy() for name, parameter in named if parameter.grad is not None}
    return Trained(curve, weights, gradients, trainer.bank.image_ids.tolist())


def further_text(config):
    """Text features of unseen classes and a mean of regions' embeddings, as far as the method needs them."""
    generator = torch.Generator().manual_seed(1)
    unseen = nn.functional.normalize(torch.randn(2, DIM, generator=generator), dim=1)
    mean = torch.randn(DIM, generator=generator) / 8
    method = config.method
    return unseen if method.transductive.names else None, mean if method.describes_regions else None


def assert_same_training(one, other):
    for here, there in zip(one.curve, other.curve, strict=True):
        assert here.keys() == there.keys()
        for name, value in here.items():
            assert there[name] == pytest.approx(value, rel=2e-4, abs=1e-5), name
    for name, weight in one.weights.items():
        np.testing.assert_allclose(other.weights[name], weight, rtol=2e-3, atol=2e-5, err_msg=name)
    assert one.gradients.keys() == other.gradients.keys()
    largest = max(np.abs(gradient).max() for gradient in one.gradients.values())
    for name, gradient in one.gradients.items():
        np.testing.assert_allclose(other.gradients[name], gradient, rtol=2e-3, atol=1e-5 * largest, err_msg=name)
    assert one.bank == other.bank


METHODS = {
    "full": {},
    "rivals across images": {"pseudo_scope": "batch"},
    "ignored pixels are negatives": {"losses": {"nel_ignore": "negative", "size": "feature"}},
    "no generator": {"generator": "original"},
    "regions described by CLIP": {
        "generator": "region",
        "losses": {"local": True},
        "clustering": {"region_tokens": "crop"},
        "bank_tokens": 9,
    },
    "transductive": {
        "generator": "region",
        "clustering": {"region_tokens": "crop"},
        "transductive": {"names": True, "start": 0.2},
    },
    "seen classes only": {"pseudo": False, "losses": {"cls_token": False}},
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_number_of_processes_changes_the_rounding_only(together, plain_config, method):
    config = plain_config(method=method)
    (alone,) = together(1, train, config)
    assert len({terms["total"] for terms in alone.curve}) >= 10
    for size in (2, 4):
        first, *others = together(size, train, config)
        assert_same_training(alone, first)
        for other in others:  # and not even that between processes of one training
            assert_equal(first, other)


def assert_equal(one, other):
    assert one.curve == other.curve
    assert all(np.array_equal(weight, other.weights[name]) for name, weight in one.weights.items())


def test_clipping_is_by_the_length_of_the_whole_gradient(together, plain_config):
    config = plain_config(train={"clip_norm": 0.5})
    (alone,) = together(1, train, config)
    assert_same_training(alone, together(2, train, config)[0])
    length = np.sqrt(sum(np.square(gradient, dtype=np.float64).sum() for gradient in alone.gradients.values()))
    assert length == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    "fault", ["gradients averaged", "adapter's gradients averaged", "no gradient from other processes"]
)
def test_the_comparison_sees_wrong_gradients(together, plain_config, monkeypatch, fault):
    """Adam hides a common factor from the weights, hence the gradients themselves are compared."""
    config = plain_config(train={"iterations": 1})
    (alone,) = together(1, train, config)
    assert_same_training(alone, together(2, train, config)[0])
    total, add_up = World.total, World.sum_gradients

    def average(self, parameters):
        add_up(self, parameters)
        for parameter in parameters:
            parameter.grad /= self.size

    def total_without_gradients(self, tensor):
        return total(self, tensor).detach() + (tensor - tensor.detach())

    if fault == "gradients averaged":
        monkeypatch.setattr(DistributedDataParallel, "register_comm_hook", lambda *hook: None)  # so DDP's own remains
    elif fault == "adapter's gradients averaged":
        monkeypatch.setattr(World, "sum_gradients", average)
    else:
        monkeypatch.setattr(World, "total", total_without_gradients)
    with pytest.raises(AssertionError):
        assert_same_training(alone, together(2, train, config)[0])


def test_dropout_of_the_adapter_is_the_same_in_every_process(together, plain_config):
    config = plain_config(method={"generator_dropout": 0.5})
    assert_same_training(*(together(size, train, config)[0] for size in (1, 2)))


def test_accumulating_without_centroids_changes_the_rounding_only(together, plain_config):
    """Contrast and denominators are those of the whole batch; only eq. 7 and 8 are of a part, and off here."""
    method = {"pseudo": False, "losses": {"generate": False}}
    (whole,) = together(1, train, plain_config(method=method))
    (parts,) = together(1, train, plain_config(method=method, train={"accumulate": 4}))
    assert_same_training(whole, parts)
    assert_same_training(whole, together(2, train, plain_config(method=method, train={"accumulate": 2}))[0])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_number_of_processes_changes_the_rounding_only_also_with_micro_batches(together, plain_config, method):
    config = plain_config(method=method, train={"accumulate": 2})
    assert_same_training(together(1, train, config)[0], together(2, train, config)[0])


def test_accumulating_is_the_same_for_the_first_losses_but_those_of_centroids(together, plain_config):
    first = [together(1, train, plain_config(train={"accumulate": n, "iterations": 1}))[0].curve[0] for n in (1, 2)]
    assert first[1]["global"] == pytest.approx(first[0]["global"], rel=1e-5)
    assert first[1]["generate"] != pytest.approx(first[0]["generate"], rel=1e-5)


def gather_parts(group):
    rows = torch.arange(4.0) + 10 * group.rank
    everything = group.concat(rows, 2)
    return everything, group.own(everything, 2), rows


def test_parts_are_gathered_one_after_the_other(together):
    for everything, own, rows in together(2, gather_parts):
        assert everything.tolist() == [0, 1, 10, 11, 2, 3, 12, 13]
        assert torch.equal(own, rows)


def gather(group):
    rows = torch.arange(6.0).view(3, 2) + 10 * group.rank
    rows.requires_grad_()
    everything = group.concat(rows)
    weight = torch.arange(1.0, 1 + len(everything))[:, None] * (group.rank + 1)
    (everything * weight).sum().backward()
    summed = group.total(rows.detach().sum())
    flags = group.concat(torch.tensor([group.rank == 1]))
    return everything.detach(), rows.grad, summed, flags, group.any(group.rank == 2), group.agree({"rank": group.rank})


def test_gathering_keeps_order_and_gradients(together):
    results = together(3, gather)
    everything = torch.cat([torch.arange(6.0).view(3, 2) + 10 * rank for rank in range(3)])
    for rank, (rows, grad, summed, flags, flag, agreed) in enumerate(results):
        assert torch.equal(rows, everything)
        own = torch.arange(1.0, 10.0)[3 * rank : 3 * rank + 3, None].expand(3, 2)
        assert torch.equal(grad, own * (1 + 2 + 3))  # of all three losses
        assert summed == everything.sum()
        assert flags.tolist() == [False, True, False]
        assert flag
        assert agreed == {"rank": 0}
    alone = gather(World())
    assert torch.equal(alone[0], torch.arange(6.0).view(3, 2))


def gradients(group):
    torch.manual_seed(group.rank)
    everywhere, here, nowhere = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    everywhere.grad = torch.full((2,), 1.0 + group.rank)
    if group.rank == 1:
        here.grad = torch.tensor([5.0, 6.0])
    group.sum_gradients([everywhere, here, nowhere])
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(group.rank)
    norm.running_var.fill_(1 + 2 * group.rank)
    group.average_statistics(nn.Sequential(norm, nn.BatchNorm1d(2, track_running_stats=False)))
    fresh = nn.Linear(2, 2)
    group.start_equal(fresh)
    return everywhere.grad, here.grad, nowhere.grad, norm.running_mean, norm.running_var, fresh.weight.detach()


def test_gradients_are_summed_and_statistics_averaged(together):
    (first, second) = together(2, gradients)
    for everywhere, here, nowhere, mean, variance, weight in (first, second):
        assert everywhere.tolist() == [3.0, 3.0]
        assert here.tolist() == [5.0, 6.0]
        assert nowhere is None
        assert mean.tolist() == [0.5, 0.5]
        assert variance.tolist() == [2.0, 2.0]
        assert torch.equal(weight, first[5])


def test_batch_norm_students_end_with_equal_weights(together, plain_config):
    """Statistics are each process's own on the CPU; weights and running statistics are still one model's."""
    config = variant_groups.apply_delta(plain_config(train={"iterations": 3}), {"student": {"backbone": "demo_fpn"}})
    assert_equal(*together(2, train, config))


@pytest.mark.long
@pytest.mark.parametrize("size", [2, 1])  # forks cannot compile once this process has
def test_a_compiled_student_learns_the_same(together, plain_config, size):
    (alone,) = together(1, train, plain_config(train={"iterations": 4}))
    assert_same_training(alone, together(size, train, plain_config(train={"iterations": 4, "compile": True}))[0])


def test_a_process_may_wait_for_a_server_while_its_partners_wait_for_it(monkeypatch):
    """Else torch ends those that wait at the moment at which our patience ends."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in {**alone, "CLIPTEA_PATIENCE": "1000"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with join():
        group = dist.distributed_c10d._get_default_group()
        assert group._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=1600)


LEFT = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "29501"}
LEFT |= {"TORCHELASTIC_RUN_ID": "x", "SLURM_NTASKS": "2", "OMPI_COMM_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
LEFT |= {"LOGLEVEL": "debug", "PYTHON_EXEC": "python3"}  # torchrun reads these


@pytest.mark.parametrize("joins", [False, True])
def test_variables_that_another_launcher_left_do_not_reach_training_processes(monkeypatch, joins):
    for name, value in {**LEFT, "PET_NNODES": "4", "PATH": "/bin", "RANKING": "kept"}.items():
        monkeypatch.setenv(name, value)
    handed = torchrun._environment(2, joins)
    assert handed.keys() & LEFT.keys() == set()
    assert ("PET_NNODES" in handed) == joins  # these are Kubeflow Trainer's, which speaks for all pods
    assert (handed["PATH"], handed["RANKING"]) == ("/bin", "kept")


@pytest.mark.parametrize(("grace", "seconds"), [(None, "25"), ("120", "115"), ("3", "1")])
def test_processes_are_killed_before_their_pod_is(monkeypatch, grace, seconds):
    monkeypatch.delenv("CLIPTEA_GRACE_SECONDS", raising=False)
    if grace:
        monkeypatch.setenv("CLIPTEA_GRACE_SECONDS", grace)
    assert torchrun._environment(1, True)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == seconds


def test_settings_of_nccl_reach_training_processes(monkeypatch):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    assert torchrun._environment(1, True)["NCCL_SOCKET_IFNAME"] == "eth0"
