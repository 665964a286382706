"""Masks are the argmax of logits that are enlarged as a whole, for bands and groups of any size."""

import numpy as np
import pytest
import torch
from whole_logits import enlarged

from cliptea.segment.enlarge import Logits
from cliptea.segment.masks import best, make_mask, rank

# small, padded, fitted and image sizes: enlarged twice, then made smaller, by odd factors, and with nothing to do
SIZES = [
    ((9, 11), (36, 44), (33, 41), (97, 131)),
    ((9, 11), (36, 44), (35, 44), (17, 13)),
    ((8, 16), (32, 64), (32, 64), (32, 64)),
    ((33, 50), (33, 50), (33, 50), (101, 63)),
    ((33, 50), (33, 50), (33, 50), (33, 50)),
    ((1, 1), (32, 32), (5, 30), (1, 1)),
    ((12, 7), (48, 28), (47, 25), (47, 200)),
]


def random_logits(sizes, number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small, padded, fitted, size = sizes
    return Logits(torch.randn(number, *small, generator=generator), padded, fitted, size)


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_ranked_prediction_is_the_literal_argmax(gamma, sizes):
    logits, unseen = random_logits(sizes, 9), [0, 4, 8]
    shifted = enlarged(logits).clone()
    shifted[unseen] += gamma
    assert torch.equal(rank(logits, unseen).predict(gamma), shifted.argmax(0))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("number", [2, 21, 171])
def test_a_mask_is_the_argmax_of_the_logits_enlarged_as_a_whole(sizes, number):
    logits, gamma = random_logits(sizes, number), torch.linspace(-0.3, 0.4, number)
    mask = make_mask(logits, gamma)
    assert (mask.dtype, mask.shape) == (np.uint8, sizes[-1])
    assert (mask == (enlarged(logits) + gamma[:, None, None]).argmax(0).numpy()).all()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("rows", "held"), [(1, 1), (2, 1 << 10), (7, 1 << 12), (16, 1), (1000, 1 << 30)])
def test_bands_and_groups_of_any_size_give_the_same_bits(sizes, rows, held):
    logits, gamma = random_logits(sizes, 10, seed=1), torch.linspace(0, 0.2, 10)
    values, classes = best(logits, gamma, rows, held)
    whole = enlarged(logits) + gamma[:, None, None]
    assert torch.equal(values, best(logits, gamma)[0])
    assert torch.equal(classes.long(), whole.argmax(0))
    torch.testing.assert_close(values, whole.amax(0), rtol=0, atol=1e-5)  # torch's kernels round in several ways


def test_of_equal_classes_the_first_is_taken():
    logits = random_logits(SIZES[0], 3)
    doubled = logits.of([0, 1, 2, 0, 1, 2])
    for held in (1, 1 << 20):
        assert torch.equal(best(doubled, held=held)[1], best(logits, held=held)[1])
