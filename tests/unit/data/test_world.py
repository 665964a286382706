import hashlib
import subprocess
import sys

import numpy as np
import pytest

from cliptea import settings
from cliptea.config import WorldConfig
from cliptea.data.catalogue import IGNORE, make_catalogue
from cliptea.data.split_shards import hide_unseen
from cliptea.data.views import choose_view, cut_labels
from cliptea.data.world import CLASSES, UNSEEN, World, caption
from cliptea.data.world.class_textures import LOOK_ALIKES, TEXTURES
from cliptea.data.world.textures import CANVAS, NAMELESS

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
def test_scene_has_a_class_or_none_at_every_pixel(size: int) -> None:
    image, labels = World(WorldConfig(size=size), 0).scene("train", 7)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert labels.shape == (size, size)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE}


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


@pytest.fixture(scope="module", params=[0, 3])
def scenes(request: pytest.FixtureRequest) -> np.ndarray:
    """Labels of 300 training scenes of a world, (300, 64, 64) uint8."""
    world = World(WorldConfig(), request.param)
    return np.stack([world.scene("train", index)[1] for index in range(300)])


def counted(labels: np.ndarray) -> np.ndarray:
    """(images, 256) int, the number of pixels of each label."""
    return np.stack([np.bincount(image.ravel(), minlength=256) for image in labels])


def border(labels: np.ndarray, first: int, second: int) -> int:
    """The number of places where a pixel of one class lies beside or above a pixel of another."""
    steps = ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    return sum(int(((a == p) & (b == q)).sum()) for a, b in steps for p, q in ((first, second), (second, first)))


def test_scenes_are_balanced(scenes: np.ndarray) -> None:
    pixels = counted(scenes)
    assert pixels[pixels > 0].min() >= 0.04 * 64**2  # nothing too small to see
    assert (pixels > 0).sum(1).min() >= 4
    assert (pixels > 0).sum(1).max() <= 7
    of_class = pixels[:, : len(CLASSES)].sum(0)
    assert of_class.min() > of_class.mean() / 5
    assert of_class.max() < 2 * of_class.mean()
    assert 0.05 < pixels[:, IGNORE].sum() / pixels.sum() < 0.15
    assert 0.4 < (pixels[:, IGNORE] > 0).mean() < 0.6


def test_neighbours_look_alike_and_touch(scenes: np.ndarray) -> None:
    pairs = [layout_pairs(labels) for labels in scenes]
    assert np.mean([len(found) for found in pairs]) > 2
    hidden = [sum(CLASSES[c] in UNSEEN for c in pair) for found in pairs for pair in found]
    assert np.mean(np.array(hidden) == 1) > 0.5  # a seen class beside an unseen one
    assert np.mean(np.array(hidden) == 2) > 0.15  # two unseen classes


def layout_pairs(labels: np.ndarray) -> list[tuple[int, int]]:
    """Classes of a scene that look alike and touch along at least four pixels."""
    present = set(np.unique(labels).tolist()) - {IGNORE}
    alike = [(a, b) for a in present for b in LOOK_ALIKES[a] if a < b and b in present]
    return [pair for pair in alike if border(labels, *pair) >= 4]


def test_most_views_hold_several_unseen_classes(scenes: np.ndarray) -> None:
    teacher, catalogue = settings.load("demo", []).teacher, make_catalogue(CLASSES, UNSEEN)
    token = 4**2  # pixels, of the demo's CLIP
    found, nameless = [], []
    for index, labels in enumerate(scenes):
        for number in range(2):
            view = choose_view(hide_unseen(labels, catalogue), f"train{index:05d}", number, teacher, 0)
            pixels = np.bincount(cut_labels(labels, view).ravel(), minlength=256)
            found.append((pixels[catalogue.unseen_ids] >= token).sum())
            nameless.append(pixels[IGNORE] / pixels.sum())
    assert np.mean(np.array(found) >= 2) > 0.55
    assert np.mean(np.array(found) == 0) < 0.15
    assert 0.05 < np.mean(nameless) < 0.15


def test_unseen_classes_share_their_parts_with_seen_ones() -> None:
    assert set(UNSEEN) < set(CLASSES)
    assert 0.3 < len(UNSEEN) / len(CLASSES) < 0.4
    seen = [texture for name, texture in TEXTURES.items() if name not in UNSEEN]
    for name in UNSEEN:
        assert TEXTURES[name].colour in {texture.colour for texture in seen}, name
    shared = [name for name in UNSEEN if TEXTURES[name].pattern in {texture.pattern for texture in seen}]
    assert len(shared) >= len(UNSEEN) - 1


def test_look_alikes_share_a_colour_or_a_pattern() -> None:
    def alike(name: str) -> set[str]:
        return {CLASSES[other] for other in LOOK_ALIKES[CLASSES.index(name)]}

    assert alike("zebra") == {"chess", "cow", "tiger", "bee", "melon"}
    assert alike("water") == {"tiles", "jeans", "sand"}
    for name in UNSEEN:  # every unseen class can be taken for a seen one, and nearly all for an unseen one
        assert alike(name) - set(UNSEEN), name
    assert sum(bool(alike(name) & set(UNSEEN)) for name in UNSEEN) >= len(UNSEEN) - 1


def test_stuff_without_a_class_looks_like_none(world: World) -> None:
    assert not set(NAMELESS) & {texture.pattern for texture in TEXTURES.values()}
    canvases = {split: [world.canvas(split, IGNORE, n).tobytes() for n in range(5)] for split in ("train", "val")}
    assert len({*canvases["train"], *canvases["val"]}) == 10


def test_caption_names_each_class_once_in_several_wordings() -> None:
    rng = np.random.default_rng(0)
    texts = [caption(["zebra", "grass", "bee"], rng) for _ in range(200)]
    assert all(text.count(name) == 1 for text in texts for name in ("zebra", "grass", "bee"))
    assert len(set(texts)) > 40
    assert "a photo of a zebra" in {caption(["zebra"], rng) for _ in range(200)}
