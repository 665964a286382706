"""The recursive normalised cut against float64 loops, and against a cut of all possible subsets."""

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from one_image import clustering_of

from cliptea.method.normalised_cut import affinity, normalised_cut
from cliptea.method.regions import region_maps


def naive_affinity(tokens, places, sigma, radius):
    tokens = np.asarray(tokens, np.float64)
    unit = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    weight = np.empty((len(tokens), len(tokens)))
    for i, j in itertools.product(range(len(tokens)), repeat=2):
        squared = sum((a - b) ** 2 for a, b in zip(places[i], places[j], strict=True))
        weight[i, j] = np.exp((unit[i] @ unit[j] - 1) / sigma) * np.exp(-squared / (2 * radius**2))
    return weight


def cost(weight, side):
    """Ncut of a side and the rest."""
    side, rest = np.flatnonzero(side), np.flatnonzero(~np.asarray(side))
    crossing = weight[np.ix_(side, rest)].sum()
    return crossing / weight[side].sum() + crossing / weight[rest].sum()


def naive_cut(weight, threshold):
    """Sets of tokens, by the generalised eigenproblem (D - W) y = e D y and a loop over all places to cut."""
    if len(weight) < 2:
        return [set(range(len(weight)))]
    degree = np.diag(weight.sum(1))
    _, vectors = scipy.linalg.eigh(degree - weight, degree)
    order = np.argsort(vectors[:, 1], kind="stable")
    sides = [np.isin(np.arange(len(weight)), order[:count]) for count in range(1, len(weight))]
    best = min(sides, key=lambda side: cost(weight, side))
    if cost(weight, best) >= threshold:
        return [set(range(len(weight)))]
    parts = []
    for side in (best, ~best):
        inside = np.flatnonzero(side)
        parts += [{int(inside[k]) for k in part} for part in naive_cut(weight[np.ix_(inside, inside)], threshold)]
    return parts


def blobs(seed, grid=7, kinds=4, dim=12, noise=0.25):
    rng = np.random.default_rng(seed)
    centres, places = rng.normal(size=(kinds, dim)), [(r, c) for r in range(grid) for c in range(grid)]
    points = rng.uniform(0, grid, (kinds, 2))
    owner = [int(np.argmin(((points - place) ** 2).sum(1))) for place in places]
    tokens = centres[owner] + noise * rng.normal(size=(len(places), dim))
    return torch.tensor(tokens, dtype=torch.float32), torch.tensor(places), owner


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("sigma", "radius"), [(0.2, 2.0), (0.05, 8.0), (1.0, 0.7)])
def test_affinity_equals_naive(seed, sigma, radius):
    tokens, places, _ = blobs(seed)
    found = affinity(tokens, places, sigma, radius)
    np.testing.assert_allclose(found, naive_affinity(tokens, places.tolist(), sigma, radius), rtol=2e-4, atol=1e-7)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.8])
def test_parts_equal_naive(seed, threshold):
    tokens, places, _ = blobs(seed)
    weight = affinity(tokens, places, 0.3, 2.5)
    parts = naive_cut(weight.double().numpy(), threshold)
    wanted = sorted(sorted(part) for part in parts)
    found = normalised_cut(weight, threshold)
    assert [torch.nonzero(found == k).flatten().tolist() for k in range(int(found.max()) + 1)] == wanted


@pytest.mark.parametrize("seed", range(3))
def test_two_clear_groups_are_cut_where_the_cheapest_of_all_subsets_is(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(2, 12))[rng.permutation([0] * 4 + [1] * 5)] + 0.3 * rng.normal(size=(9, 12))
    weight = naive_affinity(tokens, [(k // 3, k % 3) for k in range(9)], 0.3, 4.0)
    subsets = [np.array([(number >> bit) & 1 for bit in range(9)], bool) for number in range(1, 2**9 - 1)]
    best = min(subsets, key=lambda side: cost(weight, side))
    found = normalised_cut(torch.from_numpy(weight), cost(weight, best) + 1e-6).numpy() == 0
    assert (found == best).all() or (found == ~best).all()


def test_blobs_are_found_and_a_threshold_of_zero_cuts_nothing():
    tokens, places, owner = blobs(1, grid=10, noise=0.05)
    weight = affinity(tokens, places, 0.2, 3.0)
    found = normalised_cut(weight, 0.3).tolist()
    assert len({*zip(found, owner, strict=True)}) == len(set(owner)) == len(set(found))
    assert normalised_cut(weight, 0.0).tolist() == [0] * 100


def test_maps_of_a_batch_are_those_of_each_image_and_cover_every_ignored_token():
    tokens = torch.randn(3, 12, 6, 6) + 2 * torch.randn(3, 12, 1, 1)
    ignored = torch.rand(3, 6, 6) < 0.6
    ignored[1] = False
    settings = clustering_of(partition="normalised_cut", cut_threshold=0.9)
    maps = region_maps(tokens, ignored, settings)
    for tokens_of_one, ignored_of_one, found in zip(tokens, ignored, maps, strict=True):
        if ignored_of_one.any():
            weight = affinity(tokens_of_one[:, ignored_of_one].T, ignored_of_one.nonzero(), 0.2, 0.25 * 6)
            assert found[ignored_of_one].tolist() == normalised_cut(weight, 0.9).tolist()
    assert torch.equal(maps != 255, ignored)
    assert len(region_maps(tokens, ignored, clustering_of(partition="normalised_cut", cut_threshold=2.0)).unique()) > 3
