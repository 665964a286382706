"""Ignored tokens, region maps and pseudo labels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from one_image import region_map

from cliptea.method.losses import class_logits, class_mask
from cliptea.method.pixel_losses import pixel_losses
from cliptea.method.plm import ignored_tokens, offset_scope, pseudo_labels, reduce_labels

SETTING = {"windows": (3, 7), "mode": "sliding", "rounds": 10, "threshold": 0.8}


def _labels(seed):
    images, height, width, num_seen, block = 2, 24, 32, 5, 4
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, num_seen + 4, (images, height // block, width // block), generator=generator)
    labels = coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 0
    valid = torch.rand(labels.shape, generator=generator) > 0.2
    return torch.where(labels < num_seen, labels, 255), valid


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("grid", [(3, 4), (6, 8), (24, 32), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_ignored_tokens_equal_naive(seed, grid, dtype):
    labels, valid = _labels(seed)
    rows, columns = 24 // grid[0], 32 // grid[1]
    expected = np.zeros((2, *grid), dtype=bool)
    for b, i, j in np.ndindex(*expected.shape):
        cell = np.s_[b, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        free = sum(y == 255 and v for y, v in zip(labels[cell].flatten(), valid[cell].flatten(), strict=True))
        expected[b, i, j] = free >= rows * columns / 2
    assert ignored_tokens(labels.to(dtype), valid, grid).numpy().tolist() == expected.tolist()


def test_exactly_half_of_the_pixels_is_enough():
    labels, valid = torch.full((1, 4, 4), 255), torch.ones(1, 4, 4, dtype=torch.bool)
    labels[0, :2] = 3
    assert ignored_tokens(labels, valid, (1, 1)).item()
    valid[0, 3, 3] = False
    assert not ignored_tokens(labels, valid, (1, 1)).item()


def test_label_size_that_does_not_fit_the_grid_is_named():
    with pytest.raises(ValueError, match=r"30x32 pixels.*8x8 token grid.*24x32"):
        ignored_tokens(torch.zeros(1, 30, 32), torch.ones(1, 30, 32, dtype=torch.bool), (8, 8))
    with pytest.raises(ValueError, match=r"32x30"):
        pseudo_labels(torch.zeros(1, 32, 30), torch.ones(1, 32, 30, dtype=torch.bool), torch.zeros(1, 8, 8).byte(), 3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("mode", ["sliding", "grid"])
def test_regions_partition_the_ignored_tokens(seed, mode):
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(1, generator=generator).item() ** 2
    ignored = torch.rand(32, 32, generator=generator) < share
    dense = F.interpolate(torch.randn(1, 16, 6, 6, generator=generator), (32, 32), mode="bilinear")[0]
    regions = region_map(dense, ignored, **{**SETTING, "mode": mode}, max_regions=255)
    assert regions.dtype == torch.uint8
    assert torch.equal(regions != 255, ignored)
    used = regions[ignored].unique().tolist()
    assert used == list(range(len(used)))


@pytest.mark.parametrize("place", [(31, 31), (31, 4), (0, 31)])
def test_token_beyond_the_last_window_has_a_region_too(place):
    ignored = torch.zeros(32, 32, dtype=torch.bool)
    ignored[place] = True
    assert region_map(torch.randn(8, 32, 32), ignored, **SETTING)[place] == 0


def test_nothing_ignored_gives_an_empty_map():
    regions = region_map(torch.randn(8, 32, 32), torch.zeros(32, 32, dtype=torch.bool), **SETTING)
    assert regions.eq(255).all()


def _planted(widths, noise=0.05):
    """Vertical stripes of orthogonal directions, with noise far below the fusion threshold."""
    stripe = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))
    dense = torch.eye(16)[stripe].T[:, None, :].expand(16, len(stripe), len(stripe))
    return dense + noise * torch.randn(dense.shape, generator=torch.Generator().manual_seed(1)), stripe


def test_planted_stripes_are_recovered():
    dense, stripe = _planted([10, 7, 9, 6])
    ignored = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.8
    regions = region_map(dense, ignored, **SETTING)
    stripes = stripe.expand(32, 32)
    numbers = [regions[ignored & (stripes == s)].unique().tolist() for s in range(4)]
    majority = [regions[ignored & (stripes == s)].mode().values.item() for s in range(4)]
    assert sorted(majority) == sorted(set(majority)), "two stripes share a region"
    # A window across a border seeds a mixture, which may keep a border token, never a stripe's interior.
    interior = ignored.clone()
    for border in (10, 17, 26):
        interior[:, border - 1 : border + 1] = False
    for s in range(4):
        assert regions[interior & (stripes == s)].unique().tolist() == [majority[s]], numbers


def test_max_regions_keeps_the_largest_in_order_and_frees_the_rest():
    dense, stripe = _planted([4, 10, 6, 12], noise=0.0)
    everything = torch.ones(32, 32, dtype=torch.bool)
    setting = {**SETTING, "windows": (1,)}
    full = region_map(dense, everything, **setting)
    assert torch.equal(full, stripe.expand(32, 32).byte()), "stripes are emitted from left to right"
    limited = region_map(dense, everything, **setting, max_regions=2)
    assert torch.equal(limited, torch.tensor([255, 0, 255, 1], dtype=torch.uint8)[full.long()])


def test_max_regions_tie_keeps_the_lower_number():
    dense, _ = _planted([8, 8, 8, 8], noise=0.0)
    everything = torch.ones(32, 32, dtype=torch.bool)
    setting = {**SETTING, "windows": (1,)}
    full, limited = (
        region_map(dense, everything, **setting),
        region_map(dense, everything, **setting, max_regions=3),
    )
    assert torch.equal(limited, torch.where(full == 3, 255, full))


@pytest.mark.parametrize("limit", [0, 256])
def test_max_regions_outside_a_byte_is_an_error(limit):
    with pytest.raises(ValueError, match=f"max_regions is {limit}"):
        region_map(torch.randn(4, 8, 8), torch.ones(8, 8, dtype=torch.bool), **SETTING, max_regions=limit)


def test_identical_images_yield_identical_maps_and_labels():
    dense = torch.randn(64, 32, 32)
    ignored = torch.rand(32, 32) < 0.7
    # The second copy lies in memory as a transposed, half-filled buffer, as a slice of a batch might.
    other = torch.empty(2, 32, 32, 64)
    other[1] = dense.permute(1, 2, 0)
    first, second = (region_map(d, ignored, **SETTING) for d in (dense, other[1].permute(2, 0, 1)))
    assert torch.equal(first, second)
    labels = torch.where(ignored, 255, 1).repeat_interleave(2, 0).repeat_interleave(2, 1).expand(2, -1, -1)
    pseudo, counts = pseudo_labels(labels, labels >= 0, torch.stack([first, second]), 4)
    assert torch.equal(pseudo[0], pseudo[1])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grid", [(6, 8), (6, 4), (3, 16)])
def test_pseudo_labels_equal_naive(seed, grid):
    labels, valid = _labels(seed)
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randint(0, 4, (2, *grid), generator=generator)
    regions[torch.rand(regions.shape, generator=generator) < 0.3] = 255
    regions[0, 0, 0] = 4
    regions[1][regions[1] != 255] = 2
    regions[1, 0, 0] = 2
    pseudo, counts = pseudo_labels(labels, valid, regions.byte(), num_seen=5)
    for b, i, j in np.ndindex(2, 24, 32):
        region = int(regions[b, i * grid[0] // 24, j * grid[1] // 32])
        expected = int(labels[b, i, j])
        if expected == 255 and valid[b, i, j] and region != 255:
            expected = 5 + region
        assert pseudo[b, i, j] == expected
    assert pseudo.dtype == torch.int64
    assert counts.tolist() == [5, 3]


def test_region_without_free_pixel_still_counts():
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    regions = torch.tensor([[[0, 1], [2, 255]]], dtype=torch.uint8)
    pseudo, counts = pseudo_labels(labels, labels == 0, regions, num_seen=2)
    assert torch.equal(pseudo, labels)
    assert counts.tolist() == [3]


def test_no_regions_at_all():
    labels, valid = _labels(0)
    pseudo, counts = pseudo_labels(labels, valid, torch.full((2, 6, 8), 255, dtype=torch.uint8), num_seen=5)
    assert torch.equal(pseudo, labels)
    assert counts.tolist() == [0, 0]


def test_pseudo_class_never_becomes_255():
    labels, valid = torch.full((1, 2, 2), 255), torch.ones(1, 2, 2, dtype=torch.bool)
    regions = torch.full((1, 2, 2), 4, dtype=torch.uint8)
    assert pseudo_labels(labels, valid, regions, num_seen=250).labels_BHW.eq(254).all()
    with pytest.raises(ValueError, match="lower max_regions to 4"):
        pseudo_labels(labels, valid, regions, num_seen=251)


@pytest.mark.parametrize("regions_of_an_image", [3, 90])
def test_offset_scope_lets_all_pseudo_classes_compete(regions_of_an_image):
    """90 x 3 classes pass the number 255, which no pixel may receive."""
    generator = torch.Generator().manual_seed(0)
    images, num_seen, channels = 3, 7, 6
    pseudo = F.normalize(torch.randn(images, regions_of_an_image, channels, generator=generator), dim=2)
    present = torch.rand(images, regions_of_an_image, generator=generator) > 0.2
    labels = torch.randint(0, num_seen + regions_of_an_image, (images, 40, 40), generator=generator)
    labels[:, :5] = 255
    features = torch.randn(images, channels, 40, 40, generator=generator) * 4
    text = F.normalize(torch.randn(num_seen, channels, generator=generator), dim=1)

    moved, rows, rows_present = offset_scope(labels, pseudo, present, num_seen)
    logits = class_logits(features, text, rows)
    loss = pixel_losses(logits, moved, class_mask(num_seen, rows_present)).ce

    # Reference: a list of present classes instead of columns with a gap.
    owners = [(b, k) for b in range(images) for k in range(regions_of_an_image) if present[b, k]]
    bank = torch.cat([text, torch.stack([pseudo[owner] for owner in owners])]).double()
    column = {owner: num_seen + place for place, owner in enumerate(owners)}
    target = torch.full_like(labels, -1)
    for b in range(images):
        for value in range(num_seen + regions_of_an_image):
            target[b][labels[b] == value] = value if value < num_seen else column.get((b, value - num_seen), -1)
    expected = F.cross_entropy(torch.einsum("bdhw,cd->bchw", features.double(), bank), target, ignore_index=-1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(moved == 255, labels == 255)


def test_offset_scope_without_pseudo_classes():
    labels = torch.tensor([[[0, 255], [1, 2]]])
    moved, rows, present = offset_scope(labels, torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.bool), 3)
    assert torch.equal(moved, labels)
    assert rows.shape == (1, 0, 4)
    assert present.shape == (1, 0)


@pytest.mark.parametrize("size", [(24, 32), (6, 8), (5, 7), (1, 1), (48, 40)])
def test_reduce_labels_equals_nearest_interpolation(size):
    labels, valid = _labels(3)
    expected = F.interpolate(labels[:, None].double(), size, mode="nearest")[:, 0].long()
    assert torch.equal(reduce_labels(labels, size), expected)
    assert reduce_labels(valid, size).dtype == torch.bool


def test_image_without_ignored_tokens_reproduces_plain_cross_entropy_over_seen_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (2, 32, 32), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255  # scattered, never half a token
    valid = torch.ones_like(labels, dtype=torch.bool)
    ignored = ignored_tokens(labels, valid, (4, 4))
    regions = torch.stack([region_map(torch.randn(8, 4, 4), one, **SETTING) for one in ignored])
    pseudo, counts = pseudo_labels(labels, valid, regions, num_seen=5)
    features, text = torch.randn(2, 8, 32, 32), F.normalize(torch.randn(5, 8), dim=1)
    mask = class_mask(5, torch.zeros(2, int(counts.max()), dtype=torch.bool))
    loss = pixel_losses(class_logits(features, text, torch.zeros(2, int(counts.max()), 8)), pseudo, mask).ce
    plain = torch.einsum("bdhw,sd->bshw", features.double(), text.double())
    assert counts.tolist() == [0, 0]
    assert loss.item() == pytest.approx(F.cross_entropy(plain, labels, ignore_index=255).item(), rel=1e-6)
