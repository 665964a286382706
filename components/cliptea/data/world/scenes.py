"""The layout of a demo scene, which assigns a class, or none, to each pixel."""

from __future__ import annotations

import numpy as np

from cliptea.data.catalogue import IGNORE
from cliptea.data.world.class_textures import CLASSES, LOOK_ALIKES, TEXTURES, UNSEEN

__all__ = ["layout"]

THINGS = [index for index, name in enumerate(CLASSES) if not TEXTURES[name].stuff]
STUFF = [index for index, name in enumerate(CLASSES) if TEXTURES[name].stuff]

VISIBLE = 0.06  # the smallest visible fraction of the scene for each region
NAMELESS = 0.5  # the fraction of scenes with stuff that belongs to no class
CELLS = [(0.27, 0.27), (0.27, 0.73), (0.73, 0.27), (0.73, 0.73)]  # where a pair may lie in a scene of size 1
PAIRS = 2  # in a scene; a pair that leaves too little of another region is left out
ATTEMPTS = 8  # shapes that are tried for a pair
UNSEEN_FIRST = 0.5  # the fraction of pairs whose first class is unseen for certain


def layout(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """Regions of a scene, back to front: bands of stuff, and on them up to two pairs of neighbours.

    The neighbours of a pair look alike and touch. No class is in a scene twice.

    Args:
        size: height and width, pixels.

    Returns:
        Pairs of train id and mask (size, size) bool; the masks are disjoint and cover every pixel. The train id of
        stuff that belongs to no class is 255.
    """
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    classes = [int(c) for c in rng.permutation(STUFF)[:2]]
    if rng.random() < NAMELESS:
        classes.insert(rng.integers(3), IGNORE)
    owner = _bands(rng, y, x, len(classes))
    for cell in rng.permutation(CELLS)[:PAIRS]:
        pair = _look_alikes(rng, classes)
        for _ in range(ATTEMPTS):
            centre = cell + rng.uniform(-0.07, 0.07, 2)
            shape = _shape(rng, y - centre[0], x - centre[1])
            half = _across(rng, y - centre[0], x - centre[1]) > 0
            trial = np.where(shape, len(classes) + half, owner)
            share = np.bincount(trial.ravel(), minlength=len(classes) + 2) / trial.size
            if share.min() >= VISIBLE:
                owner = trial
                classes += pair
                break
    return [(c, owner == number) for number, c in enumerate(classes)]


def _look_alikes(rng: np.random.Generator, used: list[int]) -> list[int]:
    """Train ids of an object and of a class that looks like it, neither of them in `used`."""
    order = rng.permutation(THINGS)
    if rng.random() < UNSEEN_FIRST:
        order = sorted(order, key=lambda c: CLASSES[c] not in UNSEEN)
    for first in order:
        others = [c for c in LOOK_ALIKES[first] if c not in used]
        if first not in used and others:
            return [int(first), int(rng.choice(others))]
    raise ValueError("every class with a look-alike is used")


def _bands(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, number: int) -> np.ndarray:
    """Two or three wavy bands side by side at any angle: (size, size) uint8, number of the band."""
    across = _across(rng, y - 0.5, x - 0.5)
    cuts = (np.arange(1, number) / number - 0.5) + rng.uniform(-0.08, 0.08, number - 1)
    return np.digitize(across, cuts).astype(np.uint8)


def _across(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Signed distance from a wavy line through the origin, at any angle: (size, size) float32."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    along = y * np.cos(angle) - x * np.sin(angle)
    return x * np.cos(angle) + y * np.sin(angle) - 0.04 * np.sin(rng.uniform(4, 14) * along + phase)


def _shape(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """An ellipse, rectangle, polygon or blob around the origin: (size, size) bool."""
    radius = rng.uniform(0.28, 0.38)
    angle = rng.uniform(0, 2 * np.pi)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    stretch = rng.uniform(1.0, 1.5)
    u, v = u / stretch, v * stretch
    kind = rng.integers(4)
    if kind == 0:
        return np.hypot(u, v) < radius
    if kind == 1:
        return np.maximum(abs(u), abs(v)) < 0.87 * radius
    if kind == 2:  # convex polygon: the half planes of its edges
        corners = int(rng.integers(3, 8))
        edges = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.2, 0.2, corners)) / corners
        inner = radius * (0.62 if corners == 3 else 0.9)
        return np.logical_and.reduce([u * np.cos(e) + v * np.sin(e) < inner for e in edges])
    theta = np.arctan2(v, u)
    lobes, phases = rng.integers(2, 6, 2), rng.uniform(0, 2 * np.pi, 2)
    bumps = sum(0.16 * np.sin(n * theta + p) for n, p in zip(lobes, phases, strict=True))
    return np.hypot(u, v) < radius * (1 + bumps)
