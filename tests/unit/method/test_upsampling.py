"""Upsampling by bands against a naive float64 reference, and its transpose against the inner product."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cliptea.method import upsampling
from cliptea.method.upsampling import Upsampling

SIZES = [((4, 6), (8, 12)), ((4, 6), (4, 6)), ((4, 6), (7, 5)), ((4, 6), (3, 4)), ((5, 7), (33, 300)), ((1, 1), (4, 3))]


def _whole(maps_hCw, size, height):
    """(H, C, W), by bands of so many rows."""
    bands = Upsampling((maps_hCw.shape[0], maps_hCw.shape[2]), size, maps_hCw.device, maps_hCw.dtype)
    result = maps_hCw.new_empty(size[0], maps_hCw.shape[1], size[1])
    for start in range(0, size[0], height):
        stop = min(start + height, size[0])
        bands.band(maps_hCw, start, stop, result[start:stop], torch.empty_like(result[start:stop]))
    return result


@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("height", [1, 3, 50])
@pytest.mark.parametrize("where", ["cpu", "gpu"])
def test_bands_equal_naive_bilinear(source, size, height, where, monkeypatch):
    if where == "gpu":
        monkeypatch.setattr(upsampling, "_widened", upsampling._between)
    maps = torch.randn(source[0], 3, source[1])
    result = _whole(maps, size, height)

    def sides(place, length, target):
        centre = min(max((place + 0.5) * length / target - 0.5, 0), length - 1)
        low = int(centre)
        return low, min(low + 1, length - 1), centre - low

    for i, j in np.ndindex(*size):
        top, bottom, down = sides(i, source[0], size[0])
        left, right, across = sides(j, source[1], size[1])
        corners = maps.double().numpy()[[top, top, bottom, bottom], :, [left, right, left, right]]
        shares = np.outer([1 - down, down], [1 - across, across]).flatten()
        np.testing.assert_allclose(result[i, :, j].numpy(), shares @ corners, atol=1e-5)


@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("height", [1, 3, 50])
@pytest.mark.parametrize("columns", [2, 128])
def test_the_transpose_has_the_same_inner_product(source, size, height, columns, monkeypatch):
    monkeypatch.setitem(upsampling.COLUMNS, "cpu", columns)
    maps = torch.randn(source[0], 3, source[1], dtype=torch.float64)
    band = torch.randn(size[0], 3, size[1], dtype=torch.float64)
    back, bands = torch.zeros_like(maps), Upsampling(source, size, maps.device, maps.dtype)
    for start in range(0, size[0], height):
        stop = min(start + height, size[0])
        bands.add_transposed(band[start:stop], start, stop, back)
    assert (_whole(maps, size, height) * band).sum().item() == pytest.approx((maps * back).sum().item(), rel=1e-10)


def test_an_equal_size_changes_nothing():
    maps = torch.randn(6, 3, 7)
    assert torch.equal(_whole(maps, (6, 7), 4), maps)


def test_bands_equal_the_library():
    maps = torch.randn(32, 5, 32)
    expected = F.interpolate(maps.transpose(0, 1)[None], (128, 128), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(_whole(maps, (128, 128), 9).transpose(0, 1), expected, rtol=1e-6, atol=1e-6)
