"""The functions of the pixel module's region maps on one image, and a float64 reference of all of it in plain loops."""

import math

import numpy as np
import torch

from cliptea.config import ClusteringConfig
from cliptea.method import clustering, fusion, regions


def window_seeds(dense_Dgg, ignored_gg, windows=(3, 7), mode="sliding"):
    """(K, D) seeds of an image."""
    return clustering.window_seeds(dense_Dgg[:, ignored_gg].T.contiguous(), ignored_gg[None], windows, mode).seeds_ND


def kmeans(tokens_LD, seeds_KD, rounds=10, moved_only=False):
    """Centres with tokens, and the place of each token's centre among them."""
    packings = (clustering.pack(torch.tensor([len(rows)])) for rows in (tokens_LD, seeds_KD))
    of_tokens, of_seeds = packings
    centres, assignment = clustering.kmeans(tokens_LD, of_tokens, seeds_KD, of_seeds, rounds, moved_only)
    alive, numbers = assignment.unique(return_inverse=True)
    return centres[alive], numbers


def fuse(centres_KD, threshold=0.8):
    """(K,) group of each centre."""
    return fusion.fuse(centres_KD[None], torch.ones(1, len(centres_KD), dtype=torch.bool), threshold)[0]


def region_map(dense_Dgg, ignored_gg, *settings, **named):
    """(g, g) map of an image."""
    return regions.region_maps(dense_Dgg[None], ignored_gg[None], clustering_of(*settings, **named))[0]


def clustering_of(windows=(3, 7), mode="sliding", rounds=10, threshold=0.8, most=32, **further):
    """The settings of K-means and fusion, without the bounds of a config."""
    values = {"seed_mode": mode, "windows": windows, "rounds": rounds, "fusion_threshold": threshold}
    return ClusteringConfig().model_copy(update=values | {"max_regions": most} | further)


def naive_seeds(dense, ignored, windows, mode):
    dense, grid = dense.double().numpy(), len(ignored)
    seeds = []
    for size in windows:
        if mode == "sliding":
            starts = [math.floor(step * size / 2 + 0.5) for step in range(2 * grid)]
            starts = [start for start in starts if start < grid - size] + [grid - size] * (size <= grid)
            spans = [(start, start + size) for start in starts]
        else:
            spans = [(cell * grid // size, math.ceil((cell + 1) * grid / size)) for cell in range(size)]
        for top, bottom in spans:
            for left, right in spans:
                inside = [
                    dense[:, row, column]
                    for row in range(top, bottom)
                    for column in range(left, right)
                    if ignored[row, column]
                ]
                if inside:
                    seeds.append(np.mean(inside, axis=0))
    return np.array(seeds)


def naive_kmeans(tokens, seeds, rounds):
    tokens = np.array([row / np.linalg.norm(row) for row in np.asarray(tokens, dtype=np.float64)])
    centres = [row / np.linalg.norm(row) for row in np.asarray(seeds, dtype=np.float64)]
    assignment = None
    for _ in range(rounds):
        previous, assignment = assignment, []
        for cosines in (tokens @ np.array(centres).T).tolist():
            assignment.append(cosines.index(max(cosines)))
        if assignment == previous:
            break
        for k in range(len(centres)):
            members = [token for token, owner in zip(tokens, assignment, strict=True) if owner == k]
            if members:
                mean = np.mean(members, axis=0)
                centres[k] = mean / np.linalg.norm(mean)
    alive = sorted(set(assignment))
    return np.array([centres[k] for k in alive]), [alive.index(k) for k in assignment]


def cosines(centres):
    unit = np.array([row / np.linalg.norm(row) for row in np.asarray(centres, dtype=np.float64)])
    return unit @ unit.T


def naive_fuse(centres, threshold):
    """A literal implementation of Algorithm 1 with the changes in docs/method.md."""
    similarity, alive, emitted = cosines(centres), set(range(len(centres))), []
    while True:
        best, first = -np.inf, None
        for i in sorted(alive):
            for k in sorted(alive):
                # Beyond rounding, so that (k, i) never beats its mirror image (i, k).
                if i != k and similarity[i, k] > best + 1e-12:
                    best, first = similarity[i, k], i
        if first is None or best < threshold:
            break
        group = {first} | {k for k in alive if k != first and similarity[first, k] >= threshold}
        emitted.append(group)
        alive -= group
    emitted += [{k} for k in sorted(alive)]
    return [next(number for number, group in enumerate(emitted) if k in group) for k in range(len(centres))]


def naive_region_map(dense, ignored, windows, mode, rounds, threshold, max_regions):
    regions = np.full(ignored.shape, 255, dtype=np.uint8)
    if not ignored.any():
        return torch.from_numpy(regions)
    tokens = dense.double()[:, ignored].T.numpy()
    seeds = naive_seeds(dense, ignored, windows, mode)
    centres, assignment = naive_kmeans(tokens, seeds if len(seeds) else tokens.mean(0, keepdims=True), rounds)
    groups = naive_fuse(centres, threshold)
    region = [groups[owner] for owner in assignment]
    largest = sorted(set(region), key=lambda number: (-region.count(number), number))[:max_regions]
    kept = {number: place for place, number in enumerate(sorted(largest))}
    regions[ignored.numpy()] = [kept.get(number, 255) for number in region]
    return torch.from_numpy(regions)
