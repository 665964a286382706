"""How textures of the demo world are painted: a pattern of two colours, with variation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

__all__ = ["CANVAS", "NAMELESS", "Texture", "nameless", "paint", "smooth_noise"]

CANVAS = 160  # height and width of a texture canvas, pixels

Colour = tuple[int, int, int]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], period: tuple[float, float]) -> np.ndarray:
    """Band-limited noise.

    Args:
        shape: height and width, pixels.
        period: size of a bump in y and x, pixels.

    Returns:
        (height, width) float32, mean about 0, most values within -1..1.
    """
    rows, columns = (max(2, round(extent / step) + 1) for extent, step in zip(shape, period, strict=True))
    grid = rng.uniform(-1.7, 1.7, (rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))


def _step(value: np.ndarray, sharpness: float = 4.0) -> np.ndarray:
    """Soft threshold at 0 with an edge of one or two pixels, as in a photo."""
    return np.clip(0.5 + sharpness * value, 0, 1)


Pattern = Callable[[np.random.Generator, np.ndarray, np.ndarray, float], np.ndarray]


def _plain(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return 0.5 + 0.5 * smooth_noise(rng, y.shape, (period, period))


def _stripes(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    bend = smooth_noise(rng, y.shape, (28, 28)) * 0.22 * period
    width = rng.uniform(-0.15, 0.15) + 0.3 * smooth_noise(rng, y.shape, (20, 20))
    return _step(np.sin(2 * np.pi * (x + bend) / period) + width, 1.2)


def _dots(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    rows, columns = np.floor(y / period), np.floor(x / period)
    high = int(np.ceil(CANVAS * 2 / period)) + 2
    jitter = rng.uniform(-0.17, 0.17, (2, high, high)).astype(np.float32)
    radius = rng.uniform(0.26, 0.36, (high, high)).astype(np.float32)
    i, j = rows.astype(int) % high, columns.astype(int) % high
    distance = np.hypot(y / period - rows - 0.5 - jitter[0][i, j], x / period - columns - 0.5 - jitter[1][i, j])
    return _step(radius[i, j] - distance, 0.5 * period)


def _patches(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return _step(smooth_noise(rng, y.shape, (period, period)) - 0.1, 2.5)


def _checks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return _step(np.sin(2 * np.pi * y / period) * np.sin(2 * np.pi * x / period), 2.5)


def _weave(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    thread = 0.5 + 0.5 * np.sin(2 * np.pi * (x + y) / period)
    return 0.7 * thread * (0.6 + 0.4 * rng.random(y.shape, dtype=np.float32))


def _blades(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return _step(smooth_noise(rng, y.shape, (1.6 * period, 0.45 * period)), 0.7)


def _waves(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    bend = smooth_noise(rng, y.shape, (14, 14)) * 0.3 * period
    return (0.5 + 0.5 * np.sin(2 * np.pi * (y + bend) / period)) ** 2


def _bricks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    row = np.floor(2 * y / period)
    joint_y = np.abs(2 * y / period - row - 0.5)
    column = x / period + 0.5 * (row % 2)
    joint_x = np.abs(column - np.floor(column) - 0.5)
    return np.maximum(_step(joint_y - 0.40, 6), _step(joint_x - 0.45, 10))


def _grain(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    rings = smooth_noise(rng, y.shape, (6 * period, period))
    return (0.5 + 0.5 * np.sin(2 * np.pi * (x / period + 0.8 * rings))) * 0.8


def _contours(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    return _step(np.sin(6 * smooth_noise(rng, y.shape, (1.6 * period, 1.6 * period))), 1.2)


def _zigzag(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, period: float) -> np.ndarray:
    bend = 0.5 * period * np.abs(((x / period) % 2) - 1)
    return _step(np.sin(2 * np.pi * (y / period + bend / period * 1.6)), 1.2)


PATTERNS: dict[str, Pattern] = {
    "plain": _plain, "stripes": _stripes, "dots": _dots, "patches": _patches, "checks": _checks, "weave": _weave,
    "blades": _blades, "waves": _waves, "bricks": _bricks, "grain": _grain, "contours": _contours, "zigzag": _zigzag,
}  # fmt: skip
NAMELESS = ("contours", "zigzag")  # patterns that no class has


@dataclass(frozen=True)
class Texture:
    """Colours and pattern. `colour` and `pattern` are the families that look-alike classes share."""

    colour: str
    pattern: str
    ground: Colour
    mark: Colour
    period: float  # distance of two marks, pixels
    stuff: bool = False  # can be the background, not only an object


def paint(texture: Texture, definition: np.random.Generator, instance: np.random.Generator) -> np.ndarray:
    """One canvas of a class.

    Args:
        texture: colour and pattern family.
        definition: source of values that are the same for all canvases of a class in one world (shade, period).
        instance: source of values that differ between canvases.

    Returns:
        (CANVAS, CANVAS, 3) uint8 RGB.
    """
    shade = definition.uniform(-12, 12, (2, 3)) + instance.uniform(-9, 9, (2, 3))
    period = texture.period * definition.uniform(0.88, 1.14) * instance.uniform(0.9, 1.12)
    ground, mark = np.array([texture.ground, texture.mark], dtype=np.float64) + shade
    y, x = np.mgrid[:CANVAS, :CANVAS].astype(np.float32) + instance.uniform(0, 4 * period, (2, 1, 1)).astype(np.float32)
    weight = PATTERNS[texture.pattern](instance, y, x, period)[..., None]
    light = 1 + 0.06 * smooth_noise(instance, (CANVAS, CANVAS), (40, 40))[..., None]
    grit = instance.integers(-6, 7, (CANVAS, CANVAS, 1))
    return np.clip(np.rint((ground + weight * (mark - ground)) * light + grit), 0, 255).astype(np.uint8)


def nameless(rng: np.random.Generator) -> Texture:
    """A texture that belongs to no class: any two colours that differ clearly, in a pattern that no class has."""
    ground, mark = rng.integers(30, 226, (2, 3))
    while np.abs(ground - mark).max() < 70:
        mark = rng.integers(30, 226, 3)
    colours = [(int(red), int(green), int(blue)) for red, green, blue in (ground, mark)]
    return Texture("any", NAMELESS[rng.integers(len(NAMELESS))], *colours, period=float(rng.uniform(7, 11)))
