"""Self-training in one process: when it starts, what it joins, and that a restored one goes on alike."""

import pytest
import torch
from random_batches import DIM, REGIONS, SEEN, make_batch
from torch import nn

from cliptea.config import MethodConfig, TrainConfig
from cliptea.training.distributed import ALONE
from cliptea.training.loss_terms import TextFeatures
from cliptea.training.self_training import SelfTraining

METHOD = MethodConfig.model_validate(
    {"clustering": {"region_tokens": "crop"}, "transductive": {"names": True, "start": 0.5, "quantile": 0.0}}
)


class Silent(nn.Module):
    """A student that knows nothing, so that CLIP's embeddings alone decide."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images.new_zeros(len(images), DIM, 16, 16) + self.weight


def self_training():
    names = torch.eye(DIM)
    text = TextFeatures(names[:SEEN], names[SEEN : SEEN + 2], names[:SEEN].mean(0))  # the means cancel out
    return SelfTraining(Silent(), text, METHOD, TrainConfig(iterations=10, batch_size=3))


def batch():
    """In the first image, regions 0 and 2 are of the first unseen class; region 1 is of a seen one."""
    names = torch.eye(DIM)
    tokens = names[[SEEN, 0, SEEN]].repeat(3, 1, 1)
    tokens[1], tokens[2] = names[[SEEN, SEEN + 1, 1]], names[[2, 3, 1]]
    return make_batch()._replace(region_tokens_BRD=tokens)


def test_nothing_is_named_before_its_start():
    found, names = self_training().name_regions(batch(), 4, ALONE)
    assert names is None
    assert torch.equal(found.regions_Bgg, batch().regions_Bgg)


def test_regions_of_one_name_are_joined_and_leave_one_embedding():
    given = batch()
    found, names = self_training().name_regions(given, 5, ALONE)
    assert names.tolist() == [[0, -1, 0], [0, 1, -1], [-1, -1, -1]]
    joined = torch.where(given.regions_Bgg[0] == 2, 0, given.regions_Bgg[0])
    assert torch.equal(found.regions_Bgg[0], joined)
    assert torch.equal(found.regions_Bgg[1:], given.regions_Bgg[1:])
    assert found.region_tokens_BRD.any(2).tolist() == [[True, True, False], [True] * REGIONS, [True] * REGIONS]


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_a_restored_one_goes_on_alike(weight):
    one, other = self_training(), self_training()
    student = Silent()
    for value in (weight, weight + 1):
        student.weight.data.fill_(value)
        one.update(student)
    one.name_regions(batch(), 5, ALONE)
    other.load_state_dict(one.state_dict())
    one.update(student)
    other.update(student)
    for a, b in zip(one.name_regions(batch(), 6, ALONE), other.name_regions(batch(), 6, ALONE), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    state, again = one.state_dict(), other.state_dict()
    assert torch.equal(state["margins"]["margins"], again["margins"]["margins"])
    assert all(torch.equal(value, again["average"][name]) for name, value in state["average"].items())
