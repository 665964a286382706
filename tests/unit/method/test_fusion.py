"""Mask fusion against a literal implementation of Algorithm 1 with the changes in docs/method.md."""

import numpy as np
import pytest
import torch
from one_image import cosines, fuse, naive_fuse


def _directions(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=1).float()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.8, 0.95, 1.1])
@pytest.mark.parametrize("count", [1, 2, 40])
def test_fuse_equals_naive(seed, threshold, count):
    centres = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) * 3
    assert fuse(centres, threshold).tolist() == naive_fuse(centres, threshold)


def test_no_centres_no_groups():
    assert fuse(torch.empty(0, 4)).tolist() == []


def test_similar_neighbours_of_a_member_are_not_merged():
    # Threshold 25 degrees. 20 and 33 are close, but 33 is too far from 0, the first centre of its group.
    groups = fuse(_directions(0, 9, 20, 33, 48, 65), float(np.cos(np.deg2rad(25))))
    assert groups.tolist() == [0, 0, 0, 1, 1, 2]


def test_groups_are_numbered_from_the_most_similar_pair_then_the_lone_by_index():
    groups = fuse(_directions(90, 0, 20, 180, 135, 140), float(np.cos(np.deg2rad(25))))
    assert groups.tolist() == [2, 1, 1, 3, 0, 0]


def test_exact_ties_start_at_the_lowest_row():
    centres = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert fuse(centres, 1.0).tolist() == [0, 1, 1, 0]


def test_threshold_itself_is_enough():
    assert fuse(torch.tensor([[1.0, 0], [0, 1]]), threshold=0.0).tolist() == [0, 0]
    assert fuse(torch.tensor([[1.0, 0], [0, 1]]), threshold=1e-6).tolist() == [0, 1]


def test_algorithm_1_as_printed_overlaps_where_ours_does_not():
    """With the diagonal kept and one row and column cleared, each centre is selected and regions overlap."""
    centres, threshold = _directions(0, 4, 9, 15, 22, 60), 0.95
    original = cosines(centres)
    working, printed = original.copy(), []
    while working.max() >= threshold - 1e-12:
        index = int(working.argmax()) // len(centres)
        printed.append({k for k in range(len(centres)) if original[index, k] >= threshold})
        working[index], working[:, index] = -np.inf, -np.inf
    covered = [sum(k in region for region in printed) for k in range(len(centres))]
    assert len(printed) == 6
    assert max(covered) > 1

    # Ours emits this one of them, and no later region may take from it.
    assert {0, 1, 2, 3} in printed
    assert fuse(centres, threshold).tolist() == [0, 0, 0, 0, 1, 2]
