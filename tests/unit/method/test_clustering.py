"""Window seeds and spherical K-means against naive float64 loops."""

import numpy as np
import pytest
import torch
from one_image import kmeans, naive_kmeans, naive_seeds, window_seeds


def _directions(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1).float()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["sliding", "grid"])
@pytest.mark.parametrize(("grid", "windows"), [(16, (3, 7)), (13, (2, 5)), (32, (7,))])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_seeds_equal_naive(seed, mode, grid, windows, share):
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(6, grid, grid, generator=generator) + 2
    ignored = torch.rand(grid, grid, generator=generator) < share
    seeds = window_seeds(dense, ignored, windows, mode)
    np.testing.assert_allclose(seeds.numpy(), naive_seeds(dense, ignored, windows, mode), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "count"), [("sliding", 464), ("grid", 58)])
def test_number_of_seeds_on_an_all_ignored_grid(mode, count):
    dense = torch.randn(4, 32, 32)
    assert len(window_seeds(dense, torch.ones(32, 32, dtype=torch.bool), (3, 7), mode)) == count


def test_nothing_ignored_gives_no_seed():
    assert window_seeds(torch.randn(4, 32, 32), torch.zeros(32, 32, dtype=torch.bool)).shape == (0, 4)


@pytest.mark.parametrize("grid", [7, 8, 13, 32, 33])
@pytest.mark.parametrize("window", [3, 4, 7])
def test_every_token_is_in_a_window(grid, window):
    for place in ((-1, -1), (-1, 0), (0, -1), (grid // 2, -1)):
        dense, ignored = torch.randn(4, grid, grid), torch.zeros(grid, grid, dtype=torch.bool)
        ignored[place] = True
        seeds = window_seeds(dense, ignored, (window,))
        torch.testing.assert_close(seeds, dense[:, *place].expand(len(seeds), -1))
        assert len(window_seeds(dense, ignored, (window, grid + 1))) == len(seeds)


def test_a_grid_smaller_than_all_windows_has_one_seed():
    dense, ignored = torch.randn(4, 2, 2), torch.zeros(2, 2, dtype=torch.bool)
    ignored[-1, -1] = ignored[-1, 0] = True
    seeds = window_seeds(dense, ignored)
    np.testing.assert_allclose(seeds.numpy(), (dense[:, -1, :1] + dense[:, -1, -1:]).T.numpy() / 2, rtol=1e-5)


def test_unknown_seed_mode_is_named():
    with pytest.raises(ValueError, match="'random'"):
        window_seeds(torch.randn(4, 8, 8), torch.ones(8, 8, dtype=torch.bool), mode="random")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rounds", [1, 2, 10, 100])
@pytest.mark.parametrize("moved_only", [False, True])
def test_kmeans_equals_naive(seed, rounds, moved_only):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(120, 5, generator=generator) * 4
    seeds = torch.randn(20, 5, generator=generator)
    centres, assignment = kmeans(tokens, seeds, rounds, moved_only)
    expected_centres, expected_assignment = naive_kmeans(tokens, seeds, rounds)
    assert assignment.tolist() == expected_assignment
    np.testing.assert_allclose(centres.numpy(), expected_centres, atol=1e-5)


def test_rounds_matter():
    # Otherwise the comparison above would not notice a wrong number of rounds.
    generator = torch.Generator().manual_seed(0)
    tokens, seeds = torch.randn(120, 5, generator=generator), torch.randn(20, 5, generator=generator)
    results = [kmeans(tokens, seeds, rounds)[1].tolist() for rounds in (1, 2, 10)]
    assert results[0] != results[1] != results[2]


def test_only_directions_count():
    tokens, seeds = torch.randn(40, 6), torch.randn(5, 6)
    scaled = kmeans(tokens * torch.rand(40, 1).add(0.1) * 50, seeds * 7)
    assert torch.equal(scaled[1], kmeans(tokens, seeds)[1])


def test_ties_go_to_the_lowest_centre_and_its_twin_is_dropped():
    seeds = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]])
    centres, assignment = kmeans(torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]]), seeds)
    assert assignment.tolist() == [0, 0, 1]
    torch.testing.assert_close(centres, torch.tensor([[1.0, 0, 0], [0, 0, 1]]))


@pytest.mark.parametrize("moved_only", [False, True])
def test_empty_centre_keeps_its_value_and_may_win_tokens_later(moved_only):
    # Round 1 leaves the 20 degree centre empty; the first centre then turns to -43 degrees, and the token at
    # 9 degrees finds the kept value nearest. A centre dropped early would hand it to the one at 40 degrees.
    tokens = _directions(9, -60, -60, -60, 40)
    centres, assignment = kmeans(tokens, _directions(0, 20, 40), moved_only=moved_only)
    assert assignment.tolist() == [1, 0, 0, 0, 2]
    torch.testing.assert_close(centres, _directions(-60, 9, 40))


def test_no_rounds_is_an_error():
    with pytest.raises(ValueError, match="rounds is 0"):
        kmeans(torch.randn(3, 2), torch.randn(1, 2), rounds=0)


def test_half_precision_tokens_are_clustered_in_float32():
    tokens, seeds = torch.randn(60, 8).half(), torch.randn(9, 8).half()
    with torch.autocast("cpu", torch.bfloat16):
        centres, assignment = kmeans(tokens, seeds)
    expected_centres, expected_assignment = naive_kmeans(tokens, seeds, 10)
    assert assignment.tolist() == expected_assignment
    np.testing.assert_allclose(centres.numpy(), expected_centres, atol=1e-5)
