"""Pixels as the student sees them."""

import numpy as np
import pytest
import torch

from cliptea.segment.normalise import normalise

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, as MMSegmentation has them


@pytest.mark.parametrize("leading", [(), (2,)])
def test_normalising_is_mean_and_deviation_of_each_channel(leading):
    images = torch.randint(0, 256, (*leading, 3, 6, 5), dtype=torch.uint8)
    wanted = (np.moveaxis(images.double().numpy(), -3, -1) - MEAN) / STD
    assert normalise(images).dtype == torch.float32
    np.testing.assert_allclose(normalise(images).numpy(), np.moveaxis(wanted, -1, -3), atol=1e-5)
