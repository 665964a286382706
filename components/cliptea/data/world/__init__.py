"""The demo world: scenes rendered from (seed, split, index), with labels and captions. No torch.

A class has a colour and a pattern, and classes that share one of them lie side by side. A world (seed) determines its
shade. Some stuff belongs to no class: it has the label 255 and no name. Each split has separate canvases, so that
neither teacher nor student sees the canvases of val scenes in training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cliptea.config import WorldConfig
from cliptea.data.catalogue import IGNORE
from cliptea.data.world.class_textures import CLASSES, TEXTURES, UNSEEN
from cliptea.data.world.scenes import layout
from cliptea.data.world.textures import CANVAS, nameless, paint, smooth_noise

__all__ = ["CLASSES", "PROMPTS", "UNSEEN", "Split", "World", "caption"]

Split = Literal["train", "val", "teacher"]
SPLITS: tuple[Split, ...] = ("train", "val", "teacher")

# First number of every random stream: streams of different purpose never meet.
DEFINITION, INSTANCE, SCENE = 1, 2, 3

NAMELESS_CANVASES = 40  # different textures of stuff without a class, in each split

PROMPTS = (
    "a photo of {}",
    "a photo of a {}",
    "a picture of {}",
    "an image of a {}",
    "{}",
    "a scene with {}",
    "there is {}",
    "a close-up of a {}",
)


class World:
    """The scenes of the world with this seed. Canvases are created on first use."""

    def __init__(self, config: WorldConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self._canvases: dict[tuple[int, int, int], np.ndarray] = {}

    def canvas(self, split: Split, train_id: int, number: int) -> np.ndarray:
        """Texture `number` of a class in a split, or of stuff without a class (255): (CANVAS, CANVAS, 3) uint8 RGB."""
        key = (SPLITS.index(split), train_id, number)
        if key not in self._canvases:
            definition = np.random.default_rng([DEFINITION, self.seed, train_id])
            instance = np.random.default_rng([INSTANCE, self.seed, *key])
            texture = nameless(instance) if train_id == IGNORE else TEXTURES[CLASSES[train_id]]
            self._canvases[key] = paint(texture, definition, instance)
        return self._canvases[key]

    def scene(self, split: Split, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Render a scene. The same arguments always give the same bytes.

        Args:
            index: number of the scene, 0 and up.

        Returns:
            Image (size, size, 3) uint8 RGB and train ids (size, size) uint8; 255 is stuff that belongs to no class.
        """
        size = self.config.size
        rng = np.random.default_rng([SCENE, self.seed, SPLITS.index(split), index])
        image = np.empty((size, size, 3), np.uint8)
        labels = np.empty((size, size), np.uint8)
        for train_id, mask in layout(rng, size):
            labels[mask] = train_id
            canvases = NAMELESS_CANVASES if train_id == IGNORE else self.config.canvases
            canvas = self.canvas(split, train_id, int(rng.integers(canvases)))
            image[mask] = _cut(rng, canvas, mask)
        light = rng.uniform(0.88, 1.08) * (1 + 0.06 * smooth_noise(rng, (size, size), (size / 2, size / 2)))
        return np.clip(np.rint(image * light[..., None]), 0, 255).astype(np.uint8), labels


def _cut(rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Colours for the pixels of a mask, from a randomly rotated, scaled and shifted canvas: (pixels, 3) uint8."""
    y, x = np.nonzero(mask)
    angle, scale = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift_y, shift_x = rng.uniform(0, CANVAS, 2)
    u = np.rint(x * cos + y * sin + shift_x).astype(int)
    v = np.rint(y * cos - x * sin + shift_y).astype(int)
    # Mirrored at the canvas's border, so that a scene of any size has no seam.
    u, v = (np.abs((index % (2 * CANVAS - 2)) - (CANVAS - 1)) for index in (u, v))
    return canvas[v, u]


def caption(names: list[str], rng: np.random.Generator) -> str:
    """A sentence with class names, in random order and wording.

    Args:
        names: class names, at least one.
        rng: source of order and wording.

    Returns:
        For instance "a photo of a zebra and grass".
    """
    order = [names[i] for i in rng.permutation(len(names))]
    parts = [("a " if rng.random() < 0.3 and i else "") + name for i, name in enumerate(order)]
    text = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return PROMPTS[rng.integers(len(PROMPTS))].format(text)
