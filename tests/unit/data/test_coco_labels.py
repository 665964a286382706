"""COCO files in a folder, against pycocotools and naive loops."""

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask

from cliptea import parse
from cliptea.config import DataConfig
from cliptea.data import coco_labels
from cliptea.data.coco_labels import CocoLabels
from cliptea.data.folder import Folder
from cliptea.errors import ClipteaError, DataError

HEIGHT, WIDTH = 30, 40
CATEGORIES = [{"id": 3, "name": "table"}, {"id": 7, "name": "cup"}, {"id": 200, "name": "tie"}]
TRIANGLE = [2.5, 3.0, 35.2, 5.0, 20.0, 28.5]
SQUARES = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0], [20.0, 8.0, 30.5, 8.0, 30.5, 18.0, 20.0, 18.0]]


def folder(root, coco, pngs=None, names=("a",), **described):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"images/{split}/{name}.jpg")
        for name, pixels in (pngs or {}).items():
            Image.fromarray(pixels).save(root / f"labels/{split}/{name}.png")
        (root / f"labels/{split}/instances_{split}2017.json").write_text(json.dumps(coco))
    (root / "classes.json").write_text(json.dumps({"unseen": ["cup"]} | described))
    return Folder(DataConfig(dataset="folder", root=str(root)))


def instances(*annotations, **changes):
    image = {"id": 5, "file_name": "train2017/a.jpg", "height": HEIGHT, "width": WIDTH}
    named = [{"id": number, "image_id": 5, "iscrowd": 0, **one} for number, one in enumerate(annotations, 1)]
    return {"info": {}, "images": [image], "annotations": named, "categories": CATEGORIES} | changes


def polygons(*shapes):
    """(H, W) bool as pycocotools draws polygons."""
    return mask.decode(mask.merge(mask.frPyObjects(list(shapes), HEIGHT, WIDTH))).astype(bool)


def runs(covered):
    """The uncompressed run-length code of (H, W) bool, by a loop over its columns."""
    counts, last = [0], False
    for value in covered.T.ravel().tolist():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def compressed(covered):
    code = mask.encode(np.asfortranarray(covered.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


@pytest.mark.parametrize("encode", [lambda shape: [shape], lambda shape: runs(polygons(shape)),
                                    lambda shape: compressed(polygons(shape))])  # fmt: skip
def test_an_instance_is_drawn_from_every_form(tmp_path, encode):
    data = folder(tmp_path, instances({"category_id": 200, "segmentation": encode(TRIANGLE)}))
    assert (data.catalogue.classes, data.catalogue.unseen) == (["table", "cup", "tie"], ["cup"])
    assert data.check("train") == data.check("val") == []
    np.testing.assert_array_equal(data.read("train", "a").labels, np.where(polygons(TRIANGLE), 2, 255))
    assert data.left_out(["train", "val"]) == {}


def test_many_runs_are_decoded_as_by_pycocotools(tmp_path):
    covered = np.random.default_rng(0).random((HEIGHT, WIDTH)) < np.linspace(0, 1, WIDTH) ** 4
    data = folder(tmp_path, instances({"category_id": 3, "segmentation": compressed(covered), "iscrowd": 1}))
    np.testing.assert_array_equal(data.read("val", "a").labels, np.where(covered, 0, 255))


def test_instances_are_decoded_one_at_a_time(tmp_path):
    side, number = 1000, 100
    coco = instances(
        *[{"category_id": 3, "segmentation": [[0, 0, side - index, 0, 0, side]]} for index in range(number)]
    )
    coco["images"][0] |= {"height": side, "width": side}
    data = CocoLabels(json.dumps(coco).encode(), "x.json")
    tracemalloc.start()
    assert (data.values("a", None, "") == 3).sum() > side * side // 3
    assert tracemalloc.get_traced_memory()[1] < number * side * side // 5
    tracemalloc.stop()


@pytest.mark.parametrize("file_name", ["a.jpg", "train/images/a.jpg", "images\\a.jpg", "C:\\photos\\a.JPG"])
def test_an_image_is_found_by_its_name_in_whatever_folder(tmp_path, file_name):
    coco = instances({"category_id": 3, "segmentation": [TRIANGLE]})
    coco["images"][0]["file_name"] = file_name
    data = folder(tmp_path, coco)
    np.testing.assert_array_equal(data.read("train", "a").labels, np.where(polygons(TRIANGLE), 0, 255))
    assert data.left_out(["train", "val"]) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_instances_the_smaller_one_is_seen(tmp_path, order):
    both = [{"category_id": 3, "segmentation": [TRIANGLE]}, {"category_id": 7, "segmentation": SQUARES}]
    table, cups = polygons(TRIANGLE), polygons(*SQUARES)
    assert cups.sum() < table.sum()
    assert (cups & table).any()
    data = folder(tmp_path, instances(*both[::order]))
    np.testing.assert_array_equal(data.read("train", "a").labels, np.where(cups, 1, np.where(table, 0, 255)))


def test_categories_are_merged_and_ignored_by_name_or_id(tmp_path):
    first, second = SQUARES
    coco = instances(
        {"category_id": 3, "segmentation": [TRIANGLE]},
        {"category_id": 7, "segmentation": [first]},
        {"category_id": 200, "segmentation": [second]},
    )
    classes = {"clothes": ["tie"], "thing": ["table"]}
    labels = np.where(polygons(second), 0, np.where(polygons(first), 255, np.where(polygons(TRIANGLE), 1, 255)))
    for marks in ({"ignore": "cup"}, {"ignore": [7]}):
        data = folder(tmp_path, coco, classes=classes, unseen=["clothes"], **marks)
        np.testing.assert_array_equal(data.read("train", "a").labels, labels)
    data = folder(tmp_path, coco, classes=classes, unseen=["clothes"])
    count = int((polygons(first) & ~polygons(second)).sum())
    with pytest.raises(ClipteaError, match=rf"json: image a holds the label ids 7 = cup \({count} pixels\)"):
        data.read("train", "a")
    with pytest.raises(ClipteaError, match="json: image a holds the label ids 7 = cup"):
        data.check("train")
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "images/val/a.jpg")
    with pytest.raises(ClipteaError, match="json: image a has 40x30 pixels, but its image has 40x31"):
        data.read("val", "a")


def test_the_splits_number_the_classes_alike_in_whatever_order_their_files_list_them(tmp_path):
    table, cup, tie = CATEGORIES
    coco = instances({"category_id": 3, "segmentation": [TRIANGLE]})
    data = folder(tmp_path, coco)
    drawn = np.where(polygons(TRIANGLE), 0, 255)
    for order in ([cup, tie, table], [cup, {"id": 5, "name": "spoon"}, table, tie]):
        (tmp_path / "labels/train/instances_train2017.json").write_text(json.dumps(coco | {"categories": order}))
        data = Folder(DataConfig(dataset="folder", root=str(tmp_path)))
        assert data.catalogue.classes == ["table", "cup", "tie"]
        np.testing.assert_array_equal(data.read("train", "a").labels, drawn)
        np.testing.assert_array_equal(data.read("val", "a").labels, drawn)
    spoons = instances({"category_id": 5, "segmentation": [TRIANGLE]}, categories=order)
    (tmp_path / "labels/train/instances_train2017.json").write_text(json.dumps(spoons))
    with pytest.raises(ClipteaError, match="holds the label ids 5 = spoon"):
        Folder(DataConfig(dataset="folder", root=str(tmp_path))).read("train", "a")
    (tmp_path / "labels/train/instances_train2017.json").write_text(json.dumps(coco | {"categories": [table, tie]}))
    with pytest.raises(ClipteaError, match=r"instances_train2017\.json lacks the categories cup of the val images"):
        Folder(DataConfig(dataset="folder", root=str(tmp_path))).read("train", "a")


def panoptic(segments, **changes):
    annotation = {"image_id": 5, "file_name": "a.png", "segments_info": segments}
    return instances(**{"annotations": [annotation]} | changes)


def coloured(ids):
    """The PNG of segment ids: id = R + 256 G + 65536 B."""
    return np.stack([ids & 255, (ids >> 8) & 255, ids >> 16], axis=-1).astype(np.uint8)


def test_panoptic_segments_are_their_categories(tmp_path):
    known = {1: 3, 300: 7, 70_000: 200, 16_777_215: 3, 0: None}
    ids = np.random.default_rng(0).choice(np.array(list(known)), (HEIGHT, WIDTH))
    segments = [{"id": number, "category_id": category, "area": 1} for number, category in known.items() if number]
    data = folder(tmp_path, panoptic(segments), {"a": coloured(ids)})
    labels = np.empty(ids.shape, np.uint8)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            labels[y, x] = {3: 0, 7: 1, 200: 2, None: 255}[known[int(ids[y, x])]]
    assert data.check("train") == []
    np.testing.assert_array_equal(data.read("train", "a").labels, labels)
    assert data.left_out(["train", "val"]) == {}


@pytest.mark.parametrize("one", [{"image_id": 5, "file_name": "a.png"}, {"image_id": 5, "file_name": "x\\a.png"}])
def test_a_panoptic_file_without_segments_is_called_so(tmp_path, one):
    data = folder(tmp_path, panoptic([], annotations=[one]), {"a": coloured(np.full((HEIGHT, WIDTH), 300))})
    with pytest.raises(ClipteaError, match="one annotation, without segments_info, of the image a; expected one, with"):
        data.read("train", "a")


def test_unknown_segments_are_named_with_their_pixels(tmp_path):
    ids = np.full((HEIGHT, WIDTH), 300)
    ids[0, :7] = 66_000
    data = folder(tmp_path, panoptic([{"id": 300, "category_id": 7}]), {"a": coloured(ids)})
    with pytest.raises(ClipteaError, match=r"labels/train/a\.png holds the segment ids 66000 \(7 pixels\)"):
        data.read("train", "a")


def test_repeated_segments_are_refused(tmp_path):
    ids = np.full((HEIGHT, WIDTH), 300)
    data = folder(
        tmp_path, panoptic([{"id": 300, "category_id": 7}, {"id": 300, "category_id": 3}]), {"a": coloured(ids)}
    )
    with pytest.raises(ClipteaError, match="has segments of the image a with the same id; expected each id once"):
        data.read("train", "a")


def test_images_without_an_entry_and_entries_without_an_image_are_said(tmp_path):
    coco = instances({"category_id": 3, "segmentation": [TRIANGLE]})
    coco["images"].append({"id": 6, "file_name": "gone.jpg", "height": 3, "width": 3})
    data = folder(tmp_path, coco, names=("a", "b"))
    lone = ["images/train/gone", "images/val/gone"]
    assert data.left_out(["train", "val"]) == {"a COCO file lists them, but there are no such images": lone}
    with pytest.raises(ClipteaError, match=r"instances_train2017\.json does not list the image b"):
        data.read("train", "b")


CODE = {"size": [HEIGHT, WIDTH], "counts": [5, 5]}


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([[1, 2, 3, 4]], "not a list of at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "not a list of at least three points"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ([[0, 0, 400, 400] * 150], "its outlines have .* pixels; at most 104800 can be drawn"),
        ([], "neither polygons nor a run-length code"),
        (None, "neither polygons nor a run-length code"),
        (CODE, "its runs do not add up"),
        (CODE | {"counts": [-5, HEIGHT * WIDTH + 5]}, "its runs do not add up"),
        (CODE | {"counts": "0"}, "its runs do not add up"),
        (CODE | {"counts": "o"}, "end within a number"),
        (CODE | {"counts": "o" * 13}, "a number that is too large"),
        (CODE | {"counts": "0" * (HEIGHT * WIDTH + 2)}, "more runs than the image has pixels"),
        (CODE | {"counts": "\u00e9"}, "hold the letter"),
        (CODE | {"size": [3, 4]}, r"its size is \[3, 4\], but the image has \[30, 40\]"),
    ],
)
def test_a_broken_segmentation_is_one_line(tmp_path, segmentation, says):
    data = folder(tmp_path, instances({"category_id": 3, "segmentation": segmentation}))
    with pytest.raises(ClipteaError, match=rf"json: image a has a segmentation that cannot be drawn \(.*{says}"):
        data.read("train", "a")


def test_an_image_may_have_an_outline_around_every_pixel_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(coco_labels, "SPARE", 0)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    squares = [(corners + np.array([x, y])).ravel().tolist() for x in range(WIDTH) for y in range(HEIGHT)]
    each = [{"category_id": 7, "segmentation": [square]} for square in squares]
    assert (folder(tmp_path / "all", instances(*each)).read("train", "a").labels == 1).all()
    with pytest.raises(ClipteaError, match="at most 4800 can be drawn"):
        folder(tmp_path / "more", instances(*each, each[0])).read("train", "a")


def test_the_outlines_of_an_instance_have_a_limit_in_images_of_any_size(tmp_path, monkeypatch):
    coco = instances(*[{"category_id": 3, "segmentation": [square, square]} for square in SQUARES])
    monkeypatch.setattr(coco_labels, "LONGEST_OUTLINE", 2 * (10.5 + 10 + 10.5 + 10))  # of the larger one
    assert (folder(tmp_path / "fit", coco).read("train", "a").labels == 0).sum() == polygons(*SQUARES).sum()
    monkeypatch.setattr(coco_labels, "LONGEST_OUTLINE", 81)
    with pytest.raises(ClipteaError, match="its outlines have 82 pixels; at most 81 can be drawn"):
        folder(tmp_path / "long", coco).read("train", "a")


def test_a_coco_file_with_too_many_values_is_one_line(tmp_path, monkeypatch):
    coco = instances({"category_id": 3, "segmentation": [TRIANGLE]})
    text = json.dumps(coco)
    monkeypatch.setattr(parse, "MOST_VALUES", text.count(",") + 2 * text.count("[") + 16 * text.count("{"))
    assert folder(tmp_path / "fit", coco).ids("train") == ["a"]
    coco["annotations"][0]["segmentation"].append(TRIANGLE)
    with pytest.raises(ClipteaError, match=r"instances_train2017\.json: it has too many values, lists and objects"):
        folder(tmp_path / "more", coco).ids("train")


@pytest.mark.parametrize(
    ("coco", "says"),
    [
        ([], r"cannot be read \(it holds no keys\).*; move \.json files of other kinds out of labels/train and"),
        ({"images": []}, r"annotations: Field required.*; move \.json files of other kinds"),
        (instances(categories=[*CATEGORIES, {"id": 9, "name": "cup"}]), "same name or id: 7 = cup, 9 = cup; "),
        (instances(categories=[*CATEGORIES, {"id": 3, "name": "hat"}]), "same name or id: 3 = table, 3 = hat; "),
        (instances(categories=[*CATEGORIES, {"id": 65_535, "name": "x"}]), "categories.3.id: "),
        (
            instances(images=[{"id": 5, "file_name": f"{name}.jpg", "height": 3, "width": 3} for name in "ab"]),
            "images with the same id",
        ),
        (instances({"category_id": 3, "image_id": 77}), "annotations of the image 77, which it does not list"),
        (
            instances({"category_id": 3, "image_id": "5"}),
            'train2017.json writes image ids differently in images and in annotations: 5 and "5"; expected the same',
        ),
        (
            instances(
                *[{"category_id": 3, "image_id": number} for number in (7, 10, 8, 9)],
                images=[
                    {"id": f"{number:03d}", "file_name": f"{number}.jpg", "height": 3, "width": 3}
                    for number in range(7, 11)
                ],
            ),
            'in annotations: "010" and 10, "007" and 7, "008" and 8, and 1 more; expected',
        ),
        (instances({"category_id": 4, "segmentation": [TRIANGLE]}), "the category 4 for the image a"),
    ],
)
def test_a_broken_coco_file_is_one_line(tmp_path, coco, says):
    with pytest.raises(ClipteaError, match=says) as caught:
        folder(tmp_path, coco).check("train")
    assert "\n" not in str(caught.value)


def test_two_coco_files_are_refused(tmp_path):
    data = folder(tmp_path, instances())
    (tmp_path / "labels/train/more.json").write_text("{}")
    with pytest.raises(
        ClipteaError, match=r"several COCO files: instances_train2017\.json, more\.json; .*; move \.json files"
    ):
        data.ids("train")


def test_the_digest_follows_the_content_of_the_file(tmp_path):
    ids = np.full((HEIGHT, WIDTH), 300)
    data = folder(tmp_path, panoptic([{"id": 300, "category_id": 7}]), {"a": coloured(ids)})
    before = data.digest()
    (tmp_path / "classes.json").write_text(json.dumps({"unseen": ["cup"], "ignore": [9]}))
    assert Folder(DataConfig(dataset="folder", root=str(tmp_path))).digest() != before
    (tmp_path / "classes.json").write_text(json.dumps({"unseen": ["cup"]}))
    other = panoptic([{"id": 300, "category_id": 3}])
    (tmp_path / "labels/val/instances_val2017.json").write_text(json.dumps(other))
    assert Folder(DataConfig(dataset="folder", root=str(tmp_path))).digest() != before


def test_polygons_in_shares_of_the_image_are_refused(tmp_path):
    shares = [float(number) for number in np.array(TRIANGLE) / np.tile([WIDTH, HEIGHT], 3)]
    coco = instances({"category_id": 200, "segmentation": [shares]}, {"category_id": 3, "segmentation": [shares]})
    with pytest.raises(DataError, match="lie between 0 and 1, as shares of the image's size; expected pixels"):
        folder(tmp_path / "shares", coco).ids("train")
    coco["annotations"][1]["segmentation"] = [TRIANGLE]
    drawn = folder(tmp_path / "pixels", coco).read("train", "a").labels
    np.testing.assert_array_equal(drawn == 0, polygons(TRIANGLE) & (drawn != 2))
