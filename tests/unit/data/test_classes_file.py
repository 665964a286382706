"""classes.json: every way in which people mark classes in label maps, against naive loops over the pixels."""

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea.config import DataConfig
from cliptea.data.folder import Folder
from cliptea.data.labels import voc_colours
from cliptea.errors import ClipteaError, ConfigError
from cliptea_pipeline.cli import app

SIZE = (12, 17)
CLASSES = ["sky", "road", "car"]
COLOURS = {"sky": (70, 130, 180), "road": (128, 64, 128), "car": (0, 0, 142), "lane": (157, 234, 50)}
LIST = "".join(f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in COLOURS.items())


def drawn(marks):
    """A label map of random marks, which are ids or colours."""
    places = np.random.default_rng(0).integers(0, len(marks), SIZE)
    return np.array(marks)[places]


def folder(root, labels, suffix="png", listed=None, **described):
    """A folder with one pair in train and val; `labels` is an array or a Pillow image."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / f"images/{split}/a.png")
        image = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
        image.save(root / f"labels/{split}/a.{suffix}")
    if listed is not None:
        (root / "labelmap.txt").write_text(listed)
    (root / "classes.json").write_text(json.dumps({"unseen": ["car"]} | described))
    return Folder(DataConfig(dataset="folder", root=str(root)))


def expected(labels, train_ids):
    """Train ids by a loop over the pixels. `train_ids`: of each id or colour."""
    found = np.empty(labels.shape[:2], np.uint8)
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            mark = labels[y, x]
            found[y, x] = train_ids[tuple(mark.tolist()) if labels.ndim == 3 else int(mark)]
    return found


def require_equal(data, labels, train_ids):
    assert data.check("train") == []
    found = data.read("train", "a").labels
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected(labels, train_ids))


def test_classes_have_ids_of_which_several_can_be_one_class(tmp_path):
    labels = drawn([7, 8, 11, 26, 0, 255]).astype(np.uint8)
    data = folder(tmp_path, labels, classes={"sky": 11, "road": [7, 8], "car": 26}, ignore=0)
    assert data.catalogue.classes == CLASSES
    require_equal(data, labels, {11: 0, 7: 1, 8: 1, 26: 2, 0: 255, 255: 255})


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ids_may_have_sixteen_bits(tmp_path, suffix):
    labels = drawn([300, 255, 65534, 3]).astype(np.uint16)
    data = folder(tmp_path, labels, suffix, classes={"sky": 300, "road": 255, "car": 65534}, ignore=[3])
    require_equal(data, labels, {300: 0, 255: 1, 65534: 2, 3: 255})


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
@pytest.mark.parametrize("spelled", ["#{:02x}{:02x}{:02x}", "{},{},{}"])
def test_classes_have_colours_in_masks_of_any_mode(tmp_path, mode, spelled):
    labels = drawn([*COLOURS.values(), (0, 0, 0)]).astype(np.uint8)
    marks = {name: spelled.format(*colour) for name, colour in COLOURS.items()}
    classes = {"sky": marks["sky"], "road": [marks["road"], marks["lane"]], "car": marks["car"]}
    data = folder(tmp_path, Image.fromarray(labels).convert(mode, palette=Image.Palette.ADAPTIVE), classes=classes,
                  ignore="0,0,0")  # fmt: skip
    train_ids = {COLOURS["sky"]: 0, COLOURS["road"]: 1, COLOURS["lane"]: 1, COLOURS["car"]: 2, (0, 0, 0): 255}
    require_equal(data, labels, train_ids)


def test_a_grey_mask_has_grey_colours(tmp_path):
    labels = drawn([0, 128, 255]).astype(np.uint8)
    data = folder(tmp_path, labels, classes={"sky": "#000000", "road": "#808080", "car": "#ffffff"})
    require_equal(data, labels, {0: 0, 128: 1, 255: 2})


@pytest.mark.parametrize("classes", [CLASSES, {"sky": "sky", "road": ["road"], "car": "#00008e"}, None])
def test_a_list_of_labels_gives_the_colours(tmp_path, classes):
    labels = drawn(list(COLOURS.values())).astype(np.uint8)
    described = {"classes": classes} if classes else {}
    data = folder(tmp_path, labels, listed=LIST, label_list="labelmap.txt", ignore="lane", **described)
    assert data.catalogue.classes == CLASSES
    require_equal(
        data, labels, {colour: index for index, colour in enumerate(COLOURS.values())} | {COLOURS["lane"]: 255}
    )
    assert data.left_out(["train", "val"]) == {}


@pytest.mark.parametrize("spelled", ["#9dea32", "157,234,50", "lane"])
def test_without_classes_a_name_is_ignored_in_every_spelling(tmp_path, spelled):
    labels = drawn(list(COLOURS.values())).astype(np.uint8)
    data = folder(tmp_path, labels, listed=LIST, label_list="labelmap.txt", ignore=spelled)
    assert data.catalogue.classes == CLASSES
    require_equal(
        data, labels, {colour: index for index, colour in enumerate(COLOURS.values())} | {COLOURS["lane"]: 255}
    )


@pytest.mark.parametrize("classes", [None, ["ca\u00f1a", "car"], {"x": "ca\u00f1a", "car": "car"}])
def test_names_of_a_list_may_be_in_another_unicode_form(tmp_path, classes):
    labels = drawn([(1, 2, 3), (4, 5, 6), (7, 8, 9)]).astype(np.uint8)
    listed = unicodedata.normalize("NFD", "ca\u00f1a:1,2,3::\ncar:4,5,6::\nt\u00e9:7,8,9::\n")
    assert listed != unicodedata.normalize("NFC", listed)
    described = {"classes": classes} if classes else {}
    data = folder(tmp_path, labels, listed=listed, label_list="labelmap.txt", ignore="t\u00e9", **described)
    assert len(data.catalogue.classes) == 2
    require_equal(data, labels, {(1, 2, 3): 0, (4, 5, 6): 1, (7, 8, 9): 255})


def test_a_list_of_names_gives_the_ids_of_palette_masks(tmp_path):
    labels = drawn([0, 1, 2, 3, 255]).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(voc_colours().tobytes())
    data = folder(tmp_path, image, listed="__ignore__\n_background_\nsky\nroad\ncar\n", label_list="labelmap.txt",
                  ignore="_background_")  # fmt: skip
    assert data.catalogue.classes == CLASSES
    require_equal(data, labels, {0: 255, 1: 0, 2: 1, 3: 2, 255: 255})


def test_unknown_colours_are_named_with_their_pixels(tmp_path):
    labels = np.zeros((*SIZE, 3), np.uint8)
    labels[:] = COLOURS["sky"]
    labels[0, :3], labels[1, 0] = COLOURS["lane"], (1, 2, 3)
    data = folder(tmp_path, labels, listed=LIST, label_list="labelmap.txt", classes=CLASSES)
    with pytest.raises(ClipteaError) as caught:
        data.read("train", "a")
    assert "labels/train/a.png holds the colours #9dea32 = lane (3 pixels), #010203 (1 pixel); " in str(caught.value)
    assert 'add each of them to a class or to "ignore" in classes.json' in str(caught.value)


def test_unknown_ids_are_named_with_their_pixels(tmp_path):
    labels = np.full(SIZE, 11, np.uint8)
    labels[0, :5], labels[1, 0] = 9, 255
    data = folder(tmp_path, labels, classes={"sky": 11, "road": [7, 8], "car": 26})
    with pytest.raises(ClipteaError, match=r"labels/train/a\.png holds the label ids 9 \(5 pixels\); expected"):
        data.read("train", "a")


def test_smoothed_masks_are_called_so(tmp_path):
    labels = drawn(list(COLOURS.values())).astype(np.uint8)
    smooth = Image.fromarray(labels).resize((34, 24), Image.Resampling.BILINEAR).resize(SIZE[::-1])
    marks = {name: "{},{},{}".format(*COLOURS[name]) for name in CLASSES}
    data = folder(tmp_path, smooth, classes=marks, ignore="157,234,50")
    with pytest.raises(ClipteaError, match=r"it seems to be smoothed.*; export the masks as PNG without smoothing"):
        data.read("train", "a")


def test_a_jpeg_mask_is_called_so(tmp_path):
    data = folder(tmp_path, np.zeros(SIZE, np.uint8), "jpg", classes=CLASSES)
    with pytest.raises(ClipteaError, match=r"labels/train/a\.jpg is a JPEG, which alters label values"):
        data.read("train", "a")


def test_hidden_pixels_have_no_colour(tmp_path):
    labels = np.zeros((*SIZE, 4), np.uint8)
    labels[..., 3] = 255
    labels[0, 0, 3] = 9
    data = folder(tmp_path, labels, classes={"sky": "#000000", "car": "#ffffff"})
    with pytest.raises(ClipteaError, match="has 1 transparent pixels"):
        data.read("train", "a")


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"classes": {"sky": 1, "car": "#ffffff"}}, "both ids and colours"),
        ({"classes": {"sky": 1, "car": [2, 1]}}, "gives 1 two meanings"),
        ({"classes": {"sky": 1, "car": 2}, "ignore": [2]}, "gives 2 two meanings"),
        ({"classes": {"sky": [0, 0, 255], "car": [128, 0, 0]}}, 'colour once; write colours as "128,64,128"'),
        ({"classes": {"sky": 1, "car": "blue"}}, "the id, colour or name 'blue', which has no meaning"),
        ({"classes": CLASSES, "label_list": "labelmap.txt", "first_id": 1}, "first_id=1; expected first_id only"),
        ({"classes": ["sky", "cars"], "label_list": "labelmap.txt", "unseen": ["cars"]}, "perhaps car is meant"),
        ({"classes": {"sky": 70000, "car": 2}}, "classes: 70000 is not an id from 0 to 65534"),
        ({"classes": {"sky": True, "car": 2}}, "classes: True is neither an id nor a colour nor a name"),
        ({"classes": CLASSES, "label_list": "../labelmap.txt"}, "'../labelmap.txt' is not the name of a file"),
        ({"classes": CLASSES, "label_list": "other.txt"}, "other.txt is missing"),
        ({}, "classes.json has no classes; expected JSON such as {"),
        ({}, ", a label_list, or a COCO file in labels/train and labels/val"),
        ({"classes": ["sky", "road", "sky", "car"]}, "class names occur twice: sky"),
        ({"classes": {"sky": [], "car": 2}}, "classes: 'sky' has no id, no colour and no name"),
    ],
)
def test_contradictions_are_one_line(tmp_path, described, says):
    data = folder(tmp_path, np.zeros(SIZE, np.uint8), listed=LIST, **described)
    with pytest.raises(ClipteaError) as caught:
        data.check("train")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_classes_than_labels_can_tell_apart_are_refused(tmp_path):
    names = [f"class {index}" for index in range(255)]
    data = folder(tmp_path, np.zeros(SIZE, np.uint16), classes={name: index for index, name in enumerate(names)})
    with pytest.raises(ConfigError, match="there are 255 classes; expected at most 254"):
        _ = data.catalogue


def test_the_digest_follows_the_content_of_every_file(tmp_path):
    labels = drawn(list(COLOURS.values())).astype(np.uint8)
    described = {"classes": CLASSES, "label_list": "labelmap.txt"}
    digests = [folder(tmp_path, labels, listed=LIST, ignore="lane", **described).digest()]
    state = Folder(DataConfig(dataset="folder", root=str(tmp_path)))
    (tmp_path / "labelmap.txt").write_text(LIST.replace("157,234,50", "157,234,51"))
    digests.append(Folder(DataConfig(dataset="folder", root=str(tmp_path))).digest())
    (tmp_path / "labelmap.txt").write_text("# a comment changes nothing\n" + LIST)
    digests.append(Folder(DataConfig(dataset="folder", root=str(tmp_path))).digest())
    assert digests[0] == digests[2] == state.digest() != digests[1]


@pytest.mark.parametrize("classes", [CLASSES, {"sky": 0, "road": 1, "car": 2}])
def test_the_digest_follows_the_ids_that_mean_no_class(tmp_path, classes):
    labels = drawn([0, 1, 2]).astype(np.uint8)
    ignored: list[dict] = [{}, {"ignore": 9}, {"ignore": [9, 10]}, {"ignore": [10, 9]}]
    folder(tmp_path, labels)  # its files stay, and with them their versions
    digests = []
    for marks in ignored:
        (tmp_path / "classes.json").write_text(json.dumps({"classes": classes, "unseen": ["car"]} | marks))
        digests.append(Folder(DataConfig(dataset="folder", root=str(tmp_path))).digest())
    assert len({*digests}) == 3
    assert digests[2] == digests[3]


def test_the_example_of_the_page_works_word_for_word(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs/data.md").read_text("utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "my_masks" in block]
    (lines,) = [block for block in re.findall(r"\n\n((?: {4}.*\n)+)", page) if "make_masks.py" in block]
    commands = [line.split() for line in lines.splitlines()]
    assert [command[:2] for command in commands] == [
        ["python", "make_masks.py"],
        ["cliptea", "data"],
        ["cliptea", "plan"],
    ]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    answer = CliRunner().invoke(app, commands[1][1:])
    assert answer.exit_code == 0, answer.output
    rows = [line.split() for line in answer.stdout.splitlines()]
    assert [row[:3] for row in rows[1:4]] == [["0", "grass", "seen"], ["1", "barn", "seen"], ["2", "cow", "unseen"]]
    assert "8 train images, 4 val images can be used" in answer.stdout
    assert "warning: " not in answer.stdout
    mask = np.array(Image.open("my_masks/labels/val/3.png"))
    found = Folder(DataConfig(dataset="folder", root="my_masks")).read("val", "3").labels
    np.testing.assert_array_equal(
        found, expected(mask, {(0, 0, 0): 255, (0, 128, 0): 0, (128, 0, 0): 1, (128, 64, 128): 2})
    )
    planned = CliRunner().invoke(app, commands[2][1:])
    assert planned.exit_code == 0, planned.output
