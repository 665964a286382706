"""Masks are the literal argmax of logits that are resized all at once, for groups of classes of any size."""

import numpy as np
import pytest
import torch
from benchmarks.whole_logits import whole_logits
from scipy.special import softmax

from cliptea.segment import image_logits
from cliptea.segment.image_logits import ImageLogits
from cliptea.segment.masks import make_mask, make_sure_mask, rank

# Small, padded, fitted and image sizes: enlarged twice, made smaller, of equal sizes, and of single pixels.
SIZES = [
    ((9, 11), (36, 44), (33, 41), (97, 131)),
    ((9, 11), (36, 44), (35, 44), (17, 13)),
    ((8, 16), (32, 64), (32, 64), (32, 64)),
    ((33, 50), (33, 50), (33, 50), (101, 63)),
    ((33, 50), (33, 50), (33, 50), (33, 50)),
    ((1, 1), (32, 32), (5, 30), (1, 1)),
]


def random_logits(sizes, number, dtype=torch.float32):
    generator = torch.Generator().manual_seed(number)
    return ImageLogits(torch.randn(number, *sizes[0], generator=generator).to(dtype), *sizes[1:])


def sides(length, size):
    """(size, length): bilinear weights of the places of one side, by the formula."""
    weights = np.zeros((size, length))
    for place in range(size):
        centre = min(max((place + 0.5) * length / size - 0.5, 0), length - 1)
        low = int(centre)
        weights[place, low] += 1 - (centre - low)
        weights[place, min(low + 1, length - 1)] += centre - low
    return weights


@pytest.fixture(params=[0, 1, 1 << 20], ids=["one class", "a MiB", "all"])
def _budget(request, monkeypatch):
    monkeypatch.setitem(image_logits.GROUP_MIB, "cpu", request.param)


@pytest.mark.parametrize("sizes", SIZES)
def test_groups_hold_the_bilinear_logits_of_every_class(sizes, monkeypatch):
    (height, width), padded, fitted, size = sizes
    logits = random_logits(sizes, 7, torch.float64)
    wanted = np.einsum("nhw,Hh,Ww->nHW", logits.small_Nhw.numpy(), sides(height, padded[0]), sides(width, padded[1]))
    wanted = wanted[:, : fitted[0], : fitted[1]]
    wanted = np.einsum("nhw,Hh,Ww->nHW", wanted, sides(fitted[0], size[0]), sides(fitted[1], size[1]))
    for budget in (0, 1):
        monkeypatch.setitem(image_logits.GROUP_MIB, "cpu", budget)
        firsts, groups = zip(*logits.groups(), strict=True)
        assert firsts == tuple(np.cumsum([0, *map(len, groups)])[:-1])
        assert len(groups) == (1 if budget else 7)
        np.testing.assert_allclose(torch.cat(groups).numpy(), wanted, atol=1e-12)


@pytest.mark.usefixtures("_budget")
@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_ranked_prediction_is_the_literal_argmax(gamma, sizes):
    logits, unseen = random_logits(sizes, 9, torch.float64), [8, 0, 4]
    shifted = whole_logits(logits).clone()
    shifted[unseen] += gamma
    ranked = rank(logits, unseen)
    assert torch.equal(ranked.predict(gamma), shifted.argmax(0))
    assert (ranked.seen_class.dtype, ranked.unseen_class.dtype) == (torch.int64, torch.int64)


@pytest.mark.usefixtures("_budget")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("number", [1, 2, 21, 171, 255])
def test_a_mask_is_the_literal_argmax(sizes, number):
    logits, gamma = random_logits(sizes, number), torch.linspace(-0.3, 0.4, number)
    before = logits.small_Nhw.clone()
    mask = make_mask(logits, gamma)
    assert (mask.dtype, mask.shape) == (np.uint8, sizes[-1])
    assert (mask == (whole_logits(logits) + gamma[:, None, None]).argmax(0).numpy()).all()
    assert torch.equal(logits.small_Nhw, before)


@pytest.mark.usefixtures("_budget")
def test_of_equal_classes_the_first_is_taken():
    logits = random_logits(SIZES[0], 3)
    doubled = logits.of([0, 1, 2, 0, 1, 2])
    assert (make_mask(doubled, torch.zeros(6)) == make_mask(logits, torch.zeros(3))).all()


@pytest.mark.usefixtures("_budget")
@pytest.mark.parametrize("sizes", SIZES[:3])
def test_the_confidence_is_the_softmax_of_the_chosen_class(sizes):
    logits, gamma_N = random_logits(sizes, 7), torch.linspace(-1, 1, 7)
    whole = torch.cat([group for _, group in logits.groups()]) + gamma_N[:, None, None]
    mask, sure = make_sure_mask(logits, gamma_N)
    assert (mask == make_mask(logits, gamma_N)).all()
    assert np.abs(sure - softmax(whole.double().numpy(), axis=0).max(0)).max() < 1e-5
