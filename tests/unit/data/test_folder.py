"""The plain folder: what it reads, and one clear line for each thing that does not fit."""

import json
import shutil

import numpy as np
import pytest
from miniatures import folder as miniature
from miniatures import train_ids
from PIL import Image

from cliptea.config import DataConfig
from cliptea.data.folder import Folder
from cliptea.errors import ClipteaError

CLASSES = ["sky", "road", "tree"]


def write(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split, names in (("train", ["a", "b"]), ("val", ["c"])):
        for name in names:
            write(tmp_path / f"images/{split}/{name}.jpg", rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
            labels = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (20, 30))
            write(tmp_path / f"labels/{split}/{name}.png", labels)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": CLASSES, "unseen": ["tree"]}))
    return tmp_path


def folder(root, **settings):
    return Folder(DataConfig(dataset="folder", root=str(root), **settings))


def test_images_and_labels_come_as_they_are(root):
    data = folder(root)
    assert (data.ids("train"), data.ids("val")) == (["a", "b"], ["c"])
    assert (data.catalogue.classes, data.catalogue.unseen) == (CLASSES, ["tree"])
    sample = data.read("train", "b")
    assert sample.image == (root / "images/train/b.jpg").read_bytes()
    np.testing.assert_array_equal(sample.labels, np.array(Image.open(root / "labels/train/b.png")))


def test_palette_masks_give_their_indices_and_ignored_id_is_mapped(root):
    labels = np.random.default_rng(1).integers(0, 4, (20, 30), dtype=np.uint8)
    image = Image.fromarray(labels, mode="P")
    image.putpalette(list(range(30)))
    image.save(root / "labels/train/a.png")
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "unseen": ["tree"], "ignore": 3}))
    np.testing.assert_array_equal(folder(root).read("train", "a").labels, np.where(labels == 3, 255, labels))


def test_unseen_classes_can_be_chosen(root):
    assert folder(root, unseen=["sky"]).catalogue.unseen_ids == [0]
    assert folder(root, unseen=["sky"]).catalogue.seen_ids == [1, 2]


def test_the_digest_changes_with_the_data(root):
    before = folder(root).digest()
    assert folder(root).digest() == before
    (root / "labels/train/a.png").write_bytes(b"other")
    assert folder(root).digest() != before


def test_ids_may_start_at_one(root):
    labels = np.random.default_rng(1).integers(0, 4, (20, 30), dtype=np.uint8)
    write(root / "labels/train/a.png", labels)
    with pytest.raises(ClipteaError) as caught:
        folder(root).check("train")
    assert (
        f"label ids 3 ({(labels == 3).sum()} pixels); expected 0 to 2 (the 3 classes of classes.json) or 255; "
        in str(caught.value)
    )
    assert 'if the ids start at 1 and 0 is not a class, add "first_id": 1' in str(caught.value)
    before = folder(root).digest()
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "unseen": ["tree"], "first_id": 1}))
    np.testing.assert_array_equal(folder(root).read("train", "a").labels, np.where(labels, labels - 1, 255))
    assert folder(root).digest() != before


@pytest.mark.parametrize(("described", "table"), [({"first_id": 3}, [3, 4, 5, 6]), ({"ignore": 9}, [0, 1, 2, 3])])
def test_the_miniature_reads_as_described(described, table, tmp_path):
    drawn = miniature(tmp_path, **described)
    data = folder(tmp_path)
    lookup = train_ids(table) if "first_id" in described else np.array(table + [255] * 252, dtype=np.uint8)
    for split, maps in drawn.items():
        assert data.check(split) == []
        for name, raw in maps.items():
            np.testing.assert_array_equal(data.read(split, name).labels, lookup[raw])


def test_only_the_split_that_is_asked_for_is_touched(root):
    before = folder(root).digest(("val",))
    shutil.rmtree(root / "images/train")
    shutil.rmtree(root / "labels/train")
    assert (folder(root).ids("val"), folder(root).digest(("val",))) == (["c"], before)
    with pytest.raises(ClipteaError, match="images/train"):
        folder(root).digest()


def test_missing_label_maps_are_found_at_once(root):
    for name in "ab":
        (root / f"labels/train/{name}.png").unlink()
    with pytest.raises(ClipteaError, match=r"labels/train/a\.png is missing, and 1 more; expected images/SPLIT/NAME"):
        folder(root).check("train")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"classes": "sky"}', "classes: "),
        ('{"unseen": ["tree"]}', "classes.json has no classes"),
        ('{"classes": ["sky"], "ignore": 70000}', "ignore: 70000 is not an id from 0 to 65534"),
        ('{"classes": ["sky", "road"], "unseen": ["road"], "first_id": 254}', "ids up to 255"),
        ("[]", "classes.json cannot be read"),
    ],
)
def test_a_strange_description_is_one_line(root, text, says):
    (root / "classes.json").write_text(text)
    with pytest.raises(ClipteaError) as caught:
        folder(root).ids("train")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def truncated_jpeg(root):
    path = root / "images/train/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def strange_label(root):
    write(root / "labels/train/a.png", np.full((20, 30), 7, dtype=np.uint8))


def other_size(root):
    write(root / "labels/train/a.png", np.zeros((21, 30), dtype=np.uint8))


def rgb_mask(root):
    write(root / "labels/train/a.png", np.zeros((20, 30, 3), dtype=np.uint8))


def no_label(root):
    (root / "labels/train/a.png").unlink()


def text_for_an_image(root):
    (root / "images/train/a.jpg").write_text("hello")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncated_jpeg, "a.jpg"),
        (strange_label, "label ids 7"),
        (other_size, "30x21"),
        (rgb_mask, "RGB"),
        (no_label, "a.png is missing"),
        (text_for_an_image, "a.jpg"),
    ],
)
def test_a_spoilt_sample_is_one_line_with_its_file(root, spoil, says):
    spoil(root)
    with pytest.raises(ClipteaError) as caught:
        folder(root).read("train", "a")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spoilt_folder_is_one_line(root, tmp_path):
    for path in (root / "images/val").iterdir():
        path.unlink()
    with pytest.raises(ClipteaError, match="contains no images"):
        folder(root).ids("val")
    (root / "classes.json").write_text("{")
    with pytest.raises(ClipteaError, match=r"classes\.json"):
        _ = folder(root).catalogue
    (root / "classes.json").unlink()
    with pytest.raises(ClipteaError, match=r"classes\.json is missing"):
        _ = folder(root).catalogue
    with pytest.raises(ClipteaError, match="is not a folder"):
        folder(tmp_path / "nowhere")
