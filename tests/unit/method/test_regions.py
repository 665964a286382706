"""Batches against their images and a reference in plain loops, and K-means against scikit-learn's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_image import clustering_of, kmeans, naive_region_map, region_map, window_seeds
from sklearn.cluster import KMeans

from cliptea.method import clustering, regions
from cliptea.method.regions import region_maps


def scenes(number, grid=16, dim=24, noise=0.6):
    """Tokens that form blobs, and masks of very different sizes, an empty and a full one among them."""
    kinds = F.interpolate(torch.randn(number, 8, 5, 5), size=(grid, grid), mode="bilinear").argmax(1)
    dense = torch.randn(8, dim)[kinds].permute(0, 3, 1, 2) + noise * torch.randn(number, dim, grid, grid) + 0.5
    height = F.interpolate(torch.randn(number, 1, 4, 4), size=(grid, grid), mode="bilinear")[:, 0]
    ignored = height > torch.linspace(-1.5, 1.5, number)[:, None, None]
    ignored[0], ignored[-1] = True, False
    return dense, ignored


@pytest.fixture(params=["together", "alone"])
def maps(request, monkeypatch):
    """`region_maps` as it works on small grids, and as on large ones."""
    if request.param == "alone":
        monkeypatch.setattr(regions, "SMALL", 0)
    return region_maps


@pytest.mark.parametrize("mode", ["sliding", "grid"])
@pytest.mark.parametrize(("rounds", "threshold", "most"), [(10, 0.8, 32), (1, 0.5, 3), (3, 0.95, 255), (10, 0.2, 1)])
def test_a_batch_gives_the_maps_of_its_images(maps, mode, rounds, threshold, most):
    dense, ignored = scenes(12)
    settings = ((3, 7), mode, rounds, threshold, most)
    wanted = torch.stack([region_map(d, i, *settings) for d, i in zip(dense, ignored, strict=True)])
    assert torch.equal(maps(dense, ignored, clustering_of(*settings)), wanted)
    assert len(wanted.unique()) > 1
    order = torch.randperm(12)
    assert torch.equal(maps(dense[order], ignored[order], clustering_of(*settings)), wanted[order])


@pytest.mark.parametrize("mode", ["sliding", "grid"])
@pytest.mark.parametrize(("rounds", "threshold", "most"), [(10, 0.8, 32), (1, 0.5, 3), (10, 0.2, 1)])
def test_maps_equal_naive(maps, mode, rounds, threshold, most):
    """Where most tokens are ignored, no two windows hold the same ones: equal seeds would tie by rounding alone."""
    dense, _ = scenes(3, grid=10)
    ignored = torch.rand(3, 10, 10) < 0.9
    settings = ((3, 7), mode, rounds, threshold, most)
    wanted = torch.stack([naive_region_map(d, i, *settings) for d, i in zip(dense, ignored, strict=True)])
    assert torch.equal(maps(dense, ignored, clustering_of(*settings)), wanted)


def test_half_precision_tokens_are_read_as_float32(maps):
    dense, ignored = scenes(3)
    settings = ((3, 7), "sliding", 10, 0.8, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = maps(dense.half(), ignored, clustering_of(*settings))
    assert torch.equal(found, region_maps(dense.half().float(), ignored, clustering_of(*settings)))


def test_nothing_ignored_is_no_region(maps):
    dense, ignored = scenes(3)
    assert (maps(dense, torch.zeros_like(ignored), clustering_of((3,))) == 255).all()


@pytest.mark.parametrize("grid", [2, 4, 13])
def test_seeds_of_several_images_are_those_of_each(grid):
    dense, ignored = scenes(6, grid)
    ignored[1], ignored[1, -1, -1] = False, True  # in the last window only, if any fits the grid
    seeds, counts = clustering.window_seeds(dense.permute(0, 2, 3, 1)[ignored], ignored, (3, 7), "sliding")
    alone = [window_seeds(d, i, (3, 7)) for d, i in zip(dense, ignored, strict=True)]
    assert counts.tolist() == [len(one) for one in alone]
    torch.testing.assert_close(seeds, torch.cat(alone))


@pytest.mark.parametrize("rounds", [1, 2, 5, 10])
def test_kmeans_ends_where_scikit_learns_does_when_no_centre_dies(rounds):
    """On the sphere both metrics agree as long as centres are unit norm; one more round of ours is its labels."""
    dense, _ = scenes(1, noise=0.3)
    tokens = F.normalize(dense[0].flatten(1).T, dim=1)
    seeds = F.normalize(tokens[::37], dim=1)
    ours = kmeans(tokens, seeds, rounds)
    centres = seeds.numpy()
    for _ in range(rounds):
        one = KMeans(len(centres), init=centres, n_init=1, max_iter=1, tol=0, algorithm="lloyd").fit(tokens.numpy())
        assigned = np.asarray((tokens @ torch.from_numpy(centres).T).argmax(1))
        sums = np.stack([tokens.numpy()[assigned == k].sum(0) for k in range(len(centres))])
        centres = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        np.testing.assert_allclose(F.normalize(torch.from_numpy(one.cluster_centers_), dim=1), centres, atol=1e-4)
    assert np.array_equal(ours[1], assigned)
    np.testing.assert_allclose(ours[0], centres, atol=1e-5)
