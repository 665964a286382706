"""Batches of random images, without a data set."""

import numpy as np
import torch
import torch.nn.functional as F

from cliptea.training.batches import Batch

SEEN, DIM, CROP, GRID, REGIONS = 4, 16, 32, 8, 3


def make_batch(seed=0, number=3, unlabelled=0.5):
    """Random images; `unlabelled` of their tokens lie in one of `REGIONS` regions."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, SEEN, (number, GRID, GRID))
    free = rng.random((number, GRID, GRID)) < unlabelled
    regions = np.where(free, rng.integers(0, REGIONS, free.shape), 255).astype(np.uint8)
    labels = np.where(free, 255, cells).repeat(CROP // GRID, 1).repeat(CROP // GRID, 2)
    return Batch(
        torch.from_numpy(rng.standard_normal((number, 3, CROP, CROP), dtype=np.float32)),
        torch.from_numpy(labels),
        torch.ones(number, CROP, CROP, dtype=torch.bool),
        torch.from_numpy(rng.standard_normal((number, DIM), dtype=np.float32)),
        torch.from_numpy(regions),
        F.normalize(torch.from_numpy(rng.standard_normal((number, REGIONS, DIM), dtype=np.float32)), dim=2),
        torch.arange(number),
    )
