import hashlib
import subprocess
import sys

import numpy as np
import pytest

from cliptea.config import WorldConfig
from cliptea.data.world import CLASSES, UNSEEN, World, caption
from cliptea.data.world.textures import CANVAS, TEXTURES

DIGEST = """
import hashlib
from cliptea.config import WorldConfig
from cliptea.data.world import World
world, digest = World(WorldConfig(), 3), hashlib.sha256()
for split in ("teacher", "val", "train"):  # not the order of the test
    for index in (5, 0):
        image, labels = world.scene(split, index)
        digest.update(image.tobytes() + labels.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig(), 3)


def test_scene_does_not_depend_on_process_or_order(world: World) -> None:
    scenes = {(split, index): world.scene(split, index) for index in (0, 5) for split in ("train", "val", "teacher")}
    digest = hashlib.sha256()
    for split in ("teacher", "val", "train"):
        for index in (5, 0):
            image, labels = scenes[split, index]
            digest.update(image.tobytes() + labels.tobytes())
    other = subprocess.run([sys.executable, "-c", DIGEST], check=True, capture_output=True, text=True)
    assert other.stdout.strip() == digest.hexdigest()


def test_world_needs_no_torch() -> None:
    code = "import sys, cliptea.data.world; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("size", [32, 64, 96])
def test_scene_has_a_class_at_every_pixel(size: int) -> None:
    image, labels = World(WorldConfig(size=size), 0).scene("train", 7)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert labels.shape == (size, size)
    assert labels.dtype == np.uint8
    assert labels.max() < len(CLASSES)


def test_seed_split_and_index_each_give_another_scene(world: World) -> None:
    images = [
        world.scene("train", 0)[0],
        world.scene("train", 1)[0],
        world.scene("val", 0)[0],
        world.scene("teacher", 0)[0],
        World(WorldConfig(), 4).scene("train", 0)[0],
    ]
    assert len({image.tobytes() for image in images}) == len(images)


def test_canvases_are_disjoint_between_splits_but_show_the_same_class(world: World) -> None:
    numbers = range(world.config.canvases)
    canvases = {
        (split, c, n): world.canvas(split, c, n)
        for split in ("train", "val", "teacher")
        for c in range(len(CLASSES))
        for n in numbers
    }
    assert len({canvas.tobytes() for canvas in canvases.values()}) == len(canvases)
    for c, name in enumerate(CLASSES):
        colours = np.array([canvases[s, c, n].mean((0, 1)) for s in ("train", "val", "teacher") for n in numbers])
        assert np.ptp(colours, axis=0).max() < 60, name
        assert canvases["train", c, 0].shape == (CANVAS, CANVAS, 3)


def test_scenes_are_balanced(world: World) -> None:
    scenes, classes = 300, len(CLASSES)
    share = np.array([np.bincount(world.scene("val", i)[1].ravel(), minlength=classes) / 64**2 for i in range(scenes)])
    present = share > 0
    assert share[present].min() >= 0.06  # nothing too small to be named
    assert present.sum(0).min() > 0.08 * scenes
    stuff = np.array([TEXTURES[name].stuff for name in CLASSES])
    assert set(present[:, stuff].sum(1)) == {1, 2}
    assert present[:, ~stuff].sum(1).max() == 3
    assert (present[:, ~stuff].sum(1) == 0).mean() < 0.05
    assert 0.1 < share[:, ~stuff].sum(1).mean() < 0.5
    unseen = np.array([name in UNSEEN for name in CLASSES])
    assert 0.15 < share[:, unseen].sum(1).mean() < 0.4


def test_unseen_classes_share_their_parts_with_seen_ones() -> None:
    assert set(UNSEEN) < set(CLASSES)
    assert 4 <= len(UNSEEN) <= 5
    seen = {texture.pattern for name, texture in TEXTURES.items() if name not in UNSEEN}
    assert {TEXTURES["zebra"].pattern, TEXTURES["plum"].pattern} <= seen


def test_caption_names_each_class_once_in_several_wordings() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(["zebra", "grass", "bee"], rng) for _ in range(200)]
    assert all(text.count(name) == 1 for text in texts for name in ("zebra", "grass", "bee"))
    assert len(set(texts)) > 40
    assert "a photo of a zebra" in {caption(["zebra"], rng) for _ in range(200)}
