"""K-means and mask fusion of a batch against a loop over images with scikit-learn's K-means of the same seeds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.measure import Bench, Row, interleaved, speed
from benchmarks.world import SHAPES, device
from cliptea.config import ClusteringConfig
from cliptea.method.clustering import window_seeds
from cliptea.method.fusion import fuse
from cliptea.method.regions import region_maps

IMAGES, KINDS = 16, 12


def measure(bench: Bench) -> Iterator[Row]:
    """With a GPU its own goal is that of a GPU; scikit-learn then still runs on the CPU."""
    where, settings = device(), ClusteringConfig()
    images = 2 if bench.quick else 256 if where == "cuda" else IMAGES
    dense_BDgg, ignored_Bgg = _tokens(images)
    on_device = dense_BDgg.to(where), ignored_Bgg.to(where)

    def ours() -> None:
        region_maps(*on_device, settings).cpu()

    loop = partial(_scikit_learn, dense_BDgg, ignored_Bgg, settings)
    ours()
    _scikit_learn(dense_BDgg[:1], ignored_Bgg[:1], settings)
    first, second = interleaved(bench.repeats, ours, loop)
    a, b = median(first) / images, median(second) / images
    yield Row(
        f"K-means and fusion, 32x32x512 tokens, {where}",
        f"batch: {1000 * a:.1f} ms an image",
        f"scikit-learn, one by one: {1000 * b:.1f} ms",
        speed(first, second),
        100 if where == "cuda" else 1,
        details={"images": images, "threads": torch.get_num_threads()},
    )


def _tokens(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens that form blobs, as CLIP's do, and masks of a twentieth to all of the grid."""
    torch.manual_seed(0)
    grid, dim = SHAPES["g"], SHAPES["D"]
    kinds = F.interpolate(torch.randn(images, KINDS, 6, 6), size=(grid, grid), mode="bilinear").argmax(1)
    dense = torch.randn(KINDS, dim)[kinds].permute(0, 3, 1, 2) + 0.7 * torch.randn(images, dim, grid, grid) + 0.5
    height = F.interpolate(torch.randn(images, 1, 4, 4), size=(grid, grid), mode="bilinear")[:, 0]
    return dense.half(), height > torch.linspace(-1.5, 1.5, images)[:, None, None]


def _scikit_learn(dense_BDgg: torch.Tensor, ignored_Bgg: torch.Tensor, settings: ClusteringConfig) -> None:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(torch.get_num_threads()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty clusters and unfinished rounds
        for dense_Dgg, ignored_gg in zip(dense_BDgg.float(), ignored_Bgg, strict=True):
            if not bool(ignored_gg.any()):
                continue
            raw_LD = dense_Dgg[:, ignored_gg].T.contiguous()
            tokens_LD = F.normalize(raw_LD, dim=1).numpy()
            seeds_KD, _ = window_seeds(raw_LD, ignored_gg[None], settings.windows, settings.seed_mode)
            seeds_KD = F.normalize(seeds_KD[: len(tokens_LD)], dim=1).numpy()
            options: dict[str, Any] = {
                "n_init": 1,
                "max_iter": settings.rounds,
                "tol": 0,
                "algorithm": "lloyd",
                "init": seeds_KD,
            }
            kmeans = KMeans(len(seeds_KD), **options)
            assignment_L = torch.from_numpy(kmeans.fit(tokens_LD).labels_).long()
            centres_1KD = torch.from_numpy(kmeans.cluster_centers_)[None]
            alive_1K = torch.ones(1, len(seeds_KD), dtype=torch.bool)
            fuse(centres_1KD, alive_1K, settings.fusion_threshold)[0, assignment_L]
