"""`cliptea data check` on folders with one fault of each kind, and its counts against NumPy."""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cliptea.config import DataConfig
from cliptea.data import inspection
from cliptea.data.folder import Folder
from cliptea.data.inspection import Inspection, examined
from cliptea.data.labels import LabelRule
from cliptea.errors import ClipteaError, DataError
from cliptea_pipeline.cli import app

CLASSES, UNSEEN = ["sky", "road", "car", "dog"], ["dog"]
ORIENTATION = 0x0112


def call(root, *arguments):
    command = ["data", "check", "--preset", "folder", "--set", f"data.root={root}"]
    return CliRunner().invoke(app, [*command, *map(str, arguments)])


def save(root, part, name, image, labels):
    for kind, pixels in (("images", image), ("labels", labels)):
        (root / kind / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / kind / part / f"{name}.png")


@pytest.fixture
def root(tmp_path):
    """A folder without faults: 40 train and 20 val pairs of different sizes."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for part, number in (("train", 40), ("val", 20)):
        for index in range(number):
            size = rng.integers(8, 40, 2)
            labels = rng.integers(0, len(CLASSES), size, dtype=np.uint8)
            labels[0, 0] = 255
            save(root, part, f"{part}{index:02d}", rng.integers(0, 256, (*size, 3), dtype=np.uint8), labels)
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "unseen": UNSEEN}))
    return root


def label_maps(root, part):
    return [np.array(Image.open(file)) for file in sorted((root / "labels" / part).iterdir())]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_folder_has_no_problems_and_its_pixels_are_counted(root, workers):
    answer = call(root, "--workers", workers)
    assert answer.exit_code == 0, answer.output
    assert "40 train images, 20 val images can be used" in answer.stdout
    assert not re.search("error|warning", answer.output)
    for index, name in enumerate(CLASSES):
        cells = []
        for part in ("train", "val"):
            maps = label_maps(root, part)
            share = sum((one == index).sum() for one in maps) / sum(one.size for one in maps)
            cells += [f"{share:.2%}", str(sum((one == index).any() for one in maps))]
        kind = "unseen" if name in UNSEEN else "seen"
        (row,) = [line.split() for line in answer.stdout.splitlines() if line.split()[:2] == [str(index), name]]
        assert row == [str(index), name, kind, *cells]


def truncate(root):
    file = root / "images/train/train03.png"
    file.write_bytes(file.read_bytes()[:100])


def no_labels(root):
    (root / "labels/train/train03.png").unlink()


def other_size(root):
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(root / "labels/train/train03.png")


def unknown_id(root):
    labels = np.array(Image.open(root / "labels/train/train03.png"))
    labels[-1, -1] = 77
    Image.fromarray(labels).save(root / "labels/train/train03.png")


def coloured(root):
    size = Image.open(root / "images/train/train03.png").size
    Image.new("RGB", size, "red").save(root / "labels/train/train03.png")


FAULTS = {
    truncate: (r"expected a complete .* file; replace or remove it", r"cannot decode the image .*train03\.png"),
    no_labels: (r"expected images/SPLIT/NAME", r"labels/train/train03\.png is missing"),
    other_size: (r"expected an image and a label map of the same size", r"train03\.png has 5x5 pixels"),
    unknown_id: (
        r"expected 0 to 3 .*; if 4 is not a class, add .ignore.: 4 to classes\.json, ",
        r"train03\.png holds the label ids 77",
    ),
    coloured: (
        r"expected one channel of label values .*; in a plain folder, classes\.json can",
        r"train03\.png has pixel mode RGB",
    ),
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_once_and_the_others_are_still_read(root, fault, workers):
    fault(root)
    answer = call(root, "--workers", workers)
    assert answer.exit_code == 1
    expected, example = FAULTS[fault]
    assert re.search(rf"^error: {expected}.* \(1\)\n  .*{example}", answer.stdout, re.MULTILINE), answer.stdout
    assert answer.stdout.count("error: ") == 1
    assert "39 train images, 20 val images can be used" in answer.stdout
    assert answer.stderr.endswith("error: 1 problem would end a run\n")


def test_all_problems_come_at_once_with_counts(root):
    for index in range(5):
        (root / f"labels/val/val{index:02d}.png").unlink()
    truncate(root)
    (root / "images/train/notes.txt").write_text("x")
    answer = call(root)
    assert answer.exit_code == 1
    assert re.search(r"images/SPLIT/NAME.* \(5\)\n(  .*is missing.*\n){3}  and 2 more\n", answer.stdout), answer.stdout
    assert "cannot decode" in answer.stdout
    assert re.search(r"warning: files and folders that are not used .*\(1\)\n  images/train/notes.txt", answer.stdout)
    assert answer.stderr.endswith("error: 6 problems would end a run\n")


def test_what_only_the_whole_shows_is_a_warning(root):
    shutil.copy(root / "images/train/train05.png", root / "images/val/val05.png")
    shutil.copy(root / "labels/train/train05.png", root / "labels/val/val05.png")
    for folder in ("images", "labels"):
        shutil.copy(root / folder / "train/train07.png", root / folder / "train/train08.png")
    for file in (root / "labels/val").iterdir():
        labels = np.array(Image.open(file))
        Image.fromarray(np.where(labels == 3, 255, labels).astype(np.uint8)).save(file)
    answer = call(root)
    assert answer.exit_code == 0, answer.output
    told = answer.stdout
    assert "both in train and in val, so the scores are too optimistic (1)\n  train/train05 = val/val05\n" in told
    assert "images that occur more than once in train (1)\n  train07 = train08\n" in told
    assert "classes that no val image shows, so they cannot be scored (1)\n  dog (unseen)\n" in told


def test_an_unseen_class_without_train_pixels_is_as_it_should_be(root):
    for file in (root / "labels/train").iterdir():
        labels = np.array(Image.open(file))
        Image.fromarray(np.where(labels == 3, 255, labels).astype(np.uint8)).save(file)
    assert "warning" not in call(root).output


def test_train_images_without_a_seen_class_are_named(root):
    for part, names in (("train", ["train04", "train11"]), ("val", ["val02"])):
        for name in names:
            file = root / "labels" / part / f"{name}.png"
            labels = np.array(Image.open(file))
            Image.fromarray(np.where(labels == 3, 3, 255).astype(np.uint8)).save(file)
    said = "train images that show no seen class, so that training has no labels for them (2)\n  train04\n  train11\n"
    assert f"warning: {said}" in call(root).stdout


def test_a_train_part_without_any_seen_class_is_an_error(root):
    for file in (root / "labels/train").iterdir():
        labels = np.array(Image.open(file))
        Image.fromarray(np.where(labels == 3, 3, 255).astype(np.uint8)).save(file)
    answer = call(root)
    assert answer.exit_code == 1
    assert "no train image shows a seen class, so there is nothing to learn from" in answer.stdout
    assert answer.stderr.endswith("error: 1 problem would end a run\n")


def test_turned_images_are_named(root):
    image = Image.open(root / "images/val/val02.png")
    exif = image.getexif()
    exif[ORIENTATION] = 3  # upside down, which keeps the size
    image.save(root / "images/val/val02.png", exif=exif)
    assert re.search(r"warning: val images that are turned .* not fit them \(1\)\n  val02\n", call(root).stdout)


def test_the_page_needs_nothing_else_and_shows_problems_classes_and_pictures(root, tmp_path):
    truncate(root)
    answer = call(root, "-o", tmp_path / "check.html")
    assert answer.exit_code == 1
    page = (tmp_path / "check.html").read_text()
    assert page.count("<figure>") == 20 + 20  # every second of 40 train images
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "cannot decode the image" in page
    assert all(f"> {name}</td>" in page for name in CLASSES)


@pytest.mark.parametrize("name", ["<b>", "a&b"])
def test_names_are_escaped(root, tmp_path, name):
    (root / "classes.json").write_text(json.dumps({"classes": [name, *CLASSES[1:]], "unseen": UNSEEN}))
    for _ in range(2):
        assert call(root, "-o", tmp_path / "check.html").exit_code == 0
    page = (tmp_path / "check.html").read_text()
    assert f"> {name}</td>" not in page
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["-o", "page.txt"], 2, "cannot write a page to page.txt; expected the name of an .html file"),
        (["--set", "data.root=missing"], 1, "data.root=missing is not a folder"),
        (["--set", "data.synonyms.cat=[kitty]"], 2, "data.synonyms names 'cat', which the data set does not have"),
    ],
)
def test_what_cannot_be_done_is_one_line(root, arguments, code, text):
    answer = call(root, *arguments)
    assert answer.exit_code == code
    assert answer.stderr.startswith(f"error: {text}")
    assert answer.stderr.count("\n") == 1


def test_a_page_of_somebody_else_is_not_overwritten(root, tmp_path):
    (tmp_path / "index.html").write_text("<html>precious</html>")
    answer = call(root, "-o", tmp_path / "index.html")
    assert (answer.exit_code, "index.html exists and is not such a page" in answer.stderr) == (2, True)
    assert (tmp_path / "index.html").read_text() == "<html>precious</html>"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_values_are_counted_as_they_are_translated(dtype):
    rng = np.random.default_rng(1)
    size = 256 if dtype is np.uint8 else 900
    table, known = rng.integers(0, 200, size).astype(np.uint8), rng.random(size) < 0.8
    rule = LabelRule(table, known, "others", "")
    values = rng.choice(np.flatnonzero(known), (50, 70)).astype(dtype)
    expected = np.zeros(256, np.int64)
    for value in values.ravel():
        expected[table[value]] += 1
    np.testing.assert_array_equal(rule.count(values, "a.png"), expected)
    np.testing.assert_array_equal(np.bincount(rule.train_ids(values, "a.png").ravel(), minlength=256), expected)
    values[3, 4] = values[5, 6] = np.flatnonzero(~known)[0]
    with pytest.raises(DataError) as counted:
        rule.count(values, "a.png")
    with pytest.raises(DataError) as translated:
        rule.train_ids(values, "a.png")
    assert str(counted.value) == str(translated.value)
    assert f"{values[3, 4]} (2 pixels)" in str(counted.value)


class Turned(Folder):
    """A data set of the user's own, which changes what it has read."""

    def read(self, split, name):
        return super().read(split, name)._replace(labels=np.zeros((2, 2), np.uint8), size=None)


def test_a_reader_that_changes_its_samples_is_counted_as_it_reads(root):
    config = DataConfig(dataset="folder", root=str(root))
    dataset = Turned(config)
    found = Inspection(dataset.catalogue, {"train": dataset.ids("train")})
    for part, few in examined(config, dataset, found.names, 1):
        found.parts[part].add(few)
    assert [expected for _, expected in found.parts["train"].wrong] == [
        f"a numpy array uint8 {label_map.shape}, the height and width of the image"
        for label_map in label_maps(root, "train")
    ]


class Strange(Exception):
    """An error whose pickle cannot be read, which would look like the end of the process."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_of_another_process_is_told(root, monkeypatch):
    def fail(dataset, part, name):
        raise Strange("one", "two")

    monkeypatch.setattr(inspection, "_counted", fail)
    config = DataConfig(dataset="folder", root=str(root))
    with pytest.raises(RuntimeError) as caught:
        list(examined(config, Folder(config), {"train": ["train00"]}, workers=2))
    assert str(caught.value) == "Strange: one and two"


def killed(part, names):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_one_line(root, monkeypatch):
    monkeypatch.setattr(inspection, "_look", killed)
    config = DataConfig(dataset="folder", root=str(root))
    with pytest.raises(ClipteaError, match=r"was killed; expected enough memory .*; use fewer --workers"):
        list(examined(config, Folder(config), {"train": ["train00"] * 100}, workers=2))
