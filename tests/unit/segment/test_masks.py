"""Masks are the literal argmax of resized logits, in bands as well."""

import numpy as np
import pytest
import torch

from cliptea.segment.masks import make_mask, rank


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.7, 3.0])
def test_ranked_prediction_is_the_literal_argmax(gamma):
    logits, unseen = torch.randn(9, 20, 30, dtype=torch.float64), [0, 4, 8]
    shifted = logits.clone()
    shifted[unseen] += gamma
    assert torch.equal(rank(logits, unseen).predict(gamma), shifted.argmax(0))


@pytest.mark.parametrize("size", [(333, 250), (40, 31), (64, 500), (9, 11), (5, 30)])
@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_a_mask_is_the_argmax_of_the_resized_logits_in_bands_of_any_height(size, rows):
    torch.manual_seed(0)
    logits, gamma = torch.randn(4, 9, 11), torch.tensor([0.0, 0.3, 0.0, -0.2])
    resized = torch.nn.functional.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0]
    mask = make_mask(logits, size, gamma, largest=4 * size[1] * rows)
    assert (mask.dtype, mask.shape) == (np.uint8, size)
    shifted = resized + gamma.view(4, 1, 1)
    chosen = shifted.gather(0, torch.from_numpy(mask).long()[None])[0]
    assert torch.allclose(chosen, shifted.max(0).values, atol=1e-5)  # no other class is better
    assert (mask == shifted.argmax(0).numpy()).mean() > 0.999
