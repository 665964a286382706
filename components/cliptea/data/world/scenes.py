"""The layout of a demo scene, which assigns a class to each pixel."""

from __future__ import annotations

import numpy as np

from cliptea.data.world.textures import TEXTURES

__all__ = ["CLASSES", "layout"]

CLASSES: tuple[str, ...] = tuple(TEXTURES)
THINGS = [index for index, name in enumerate(CLASSES) if not TEXTURES[name].stuff]
STUFF = [index for index, name in enumerate(CLASSES) if TEXTURES[name].stuff]

VISIBLE = 0.06  # the smallest visible fraction of the scene for each region
ATTEMPTS = 8


def layout(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """Regions of a scene, back to front.

    Args:
        size: height and width, pixels.

    Returns:
        Pairs of train id and mask (size, size) bool; the masks are disjoint and cover every pixel.
    """
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    stuff = rng.permutation(STUFF)[: rng.integers(1, 3)]
    owner = np.zeros((size, size), np.uint8)
    owner[_beyond_edge(rng, y, x) & (len(stuff) > 1)] = 1
    things = rng.permutation(THINGS)[: rng.integers(1, 4)]
    classes = [int(c) for c in (*stuff, *things)]
    for number in range(len(stuff), len(classes)):
        for _ in range(ATTEMPTS):
            trial = np.where(_shape(rng, y, x), np.uint8(number), owner)
            share = np.bincount(trial.ravel(), minlength=number + 1)[: number + 1] / trial.size
            if share.min() >= VISIBLE:
                owner = trial
                break
        else:  # there is no room, so the scene is not changed
            classes = classes[:number]
            break
    return [(c, owner == number) for number, c in enumerate(classes)]


def _beyond_edge(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One side of a wavy line at any angle through the middle part of the scene."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    across = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    along = (y - 0.5) * np.cos(angle) - (x - 0.5) * np.sin(angle)
    return across > rng.uniform(-0.18, 0.18) + 0.05 * np.sin(rng.uniform(2, 12) * along + phase)


def _shape(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A disc, ellipse, blob, rectangle, polygon or capsule somewhere in the scene: (size, size) bool."""
    radius = rng.uniform(0.19, 0.34)
    centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
    angle = rng.uniform(0, 2 * np.pi)
    u = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    v = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
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
