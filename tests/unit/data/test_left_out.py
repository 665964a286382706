"""Whatever a data folder holds and is not read is named and counted; names that are equal are one name."""

import ast
import json
import os
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from cliptea import progress, settings
from cliptea.config import DataConfig
from cliptea.data.catalogue import as_text, known_to, make_catalogue, require_distinct
from cliptea.data.facts import facts
from cliptea.data.folder import Folder
from cliptea.data.left_out import LeftOut, count
from cliptea.data.split_shards import write_split
from cliptea.data.world import CLASSES
from cliptea.errors import ClipteaError, ConfigError
from cliptea.manifest import Manifest
from cliptea.run import Run
from cliptea.steps import resolve
from cliptea.steps.gather import _warnings
from cliptea.steps.split import DataEntry, left_out_of, make_splits
from cliptea.steps.teacher import TeacherCache
from cliptea.storage import FileStore

ACUTE = "\u00e9"  # é in one letter, and in two
assert unicodedata.normalize("NFD", ACUTE) == "e\u0301"


def picture(path, shape=(8, 8, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(shape, np.uint8)).save(path, format="PNG")


@pytest.fixture
def root(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            picture(tmp_path / f"data/images/{split}/{name}.png")
            picture(tmp_path / f"data/labels/{split}/{name}.png", (8, 8))
    (tmp_path / "data/classes.json").write_text(json.dumps({"classes": ["x", "y"], "unseen": ["y"]}))
    return tmp_path / "data"


def folder(root):
    return Folder(DataConfig(dataset="folder", root=str(root)))


def test_a_tidy_folder_leaves_nothing_out(root):
    assert folder(root).left_out(["train", "val"]) == {}


def test_everything_that_is_not_read_is_named_with_its_reason(root, tmp_path):
    other = "their suffix is not one of .bmp, .gif, .jfif, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    elsewhere = "not in images/train, images/val, labels/train or labels/val"
    expected = {
        other: ["images/train/n.txt", "images/val/x.HEIC"],
        "no image has their name": ["labels/train/lone.png"],
        "they are not label maps": ["labels/train/a.json", "labels/train/a.txt"],
        "other labels have their name": ["labels/train/b.jpg"],
        "hidden or system files": ["images/train/.DS_Store", "images/train/._a.png", "images/val/Thumbs.db"],
        "sub-folders are not searched": ["images/train/more"],
        "a broken link": ["images/train/gone.png"],
        "a circular link": ["images/val/loop.png"],
        "a named pipe": ["labels/val/pipe.png"],
        "a device": ["images/train/zero.png"],
        elsewhere: ["README", "images/test", "images/top.png", "labels/Val"],
    }  # fmt: skip
    for path in (path for paths in expected.values() for path in paths):
        (root / path).parent.mkdir(exist_ok=True)
        if path in ("images/train/more", "images/test", "labels/Val"):
            picture(root / path / "deep.png")
        elif path == "images/train/gone.png":
            (root / path).symlink_to("nowhere.png")
        elif path == "images/val/loop.png":
            (root / path).symlink_to(root / path)
        elif path == "labels/val/pipe.png":
            os.mkfifo(root / path)
        elif path == "images/train/zero.png":
            (root / path).symlink_to("/dev/zero")
        else:
            (root / path).write_bytes(b"x")
    assert folder(root).ids("train") == folder(root).ids("val") == ["a", "b"]
    assert folder(root).left_out(["train", "val"]) == expected
    made = write_split(
        FileStore(tmp_path / "store"), DataConfig(dataset="folder", root=str(root)), "s", ["train", "val"]
    )
    counted = {reason: len(paths) for reason, paths in expected.items()}
    assert {reason: found["number"] for reason, found in made.info["left_out"].items()} == counted
    for reason, paths in expected.items():
        (line,) = [problem for problem in made.info["problems"] if f"({reason})" in problem]
        assert line.startswith(f"{len(paths)} left out of the data")
        assert all(path in line for path in paths)


def test_many_are_counted_and_the_first_are_named(root, tmp_path):
    for number in range(30):
        (root / f"images/train/{number:02}.txt").touch()
    made = write_split(
        FileStore(tmp_path / "store"), DataConfig(dataset="folder", root=str(root)), "s", ["train", "val"]
    )
    (line,) = [problem for problem in made.info["problems"] if "suffix" in problem]
    assert line.startswith("30 left out of the data")
    assert line.endswith("images/train/00.txt, images/train/01.txt, images/train/02.txt, images/train/03.txt, "
                         "images/train/04.txt, and 25 more")  # fmt: skip


def test_what_is_left_out_later_is_counted_although_shards_are_reused(root, tmp_path, monkeypatch):
    """In warnings and in the report, in what MLflow gets, and where a schedule skips the run."""
    monkeypatch.setenv("CLIPTEA_STORE", (tmp_path / "store").as_uri())
    given = [f"data.root={root}", "teacher.weights=demo", f"evaluation.sets.further.root={root}"]
    config = settings.load("folder", [*given, "evaluation.sets.further.dataset=folder"])
    same = {"fingerprint": "", "job_id": "", "tracking_run": "", "variants": []}
    digest = folder(root).digest()
    run = Run(config=config, data_digest=digest, evaluation_digests={"further": digest}, **same)
    cache = TeacherCache(tokens=Manifest(kind="tokens", fingerprint="t"), regions={}, text={})
    warned: list[str] = []
    monkeypatch.setattr(progress, "warn", warned.append)

    def made():
        """The splits, and the lines about what they leave out."""
        warned.clear()
        splits = make_splits(run)
        lines = [line for line in warned if "left out" in line]
        assert [line for line in _warnings(run, splits, cache, []) if "left out" in line] == lines
        warned.clear()
        resolve._warn_of_left_out(config)
        assert warned == lines
        return splits, lines

    first, lines = made()
    assert lines == []
    picture(root / "images/train/b.heic")
    (root / "images/val/c.jpg").symlink_to("nowhere.jpg")
    (root / "images/train/sub").mkdir()
    again, lines = made()
    assert folder(root).digest() == digest
    assert [again.own.output, again.own.objects] == [first.own.output, first.own.objects]  # nothing is made anew
    dead = "1 left out of the data (a broken link): images/val/c.jpg"
    assert {dead, f"further: {dead}"} < {*lines}
    assert len(lines) == 4
    assert sorted(one["first"] for one in again.own.info["left_out"].values()) == [
        ["images/train/b.heic"], ["images/train/sub"], ["images/val/c.jpg"]
    ]  # fmt: skip
    assert len({DataEntry(splits=splits.named("own")).name for splits in (first, again)}) == 2  # so both are logged
    assert left_out_of(first.named("own")) != left_out_of(again.named("own"))  # as the report's fingerprint needs
    for path in ("images/train/b.heic", "images/val/c.jpg"):
        (root / path).unlink()
    (root / "images/train/sub").rmdir()
    assert made() == (first, [])


@pytest.mark.parametrize("folded", ["parent", "mutual"])
def test_links_that_turn_in_circles_end(root, folded):
    if folded == "parent":
        (root / "images/train/up").symlink_to(root)
    else:
        for one, other in (("p", "q"), ("q", "p")):
            (root / one).mkdir()
            (root / one / "x").symlink_to(root / other)
            (root / one / "y").symlink_to(root / other)
        (root / "images/train/p").symlink_to(root / "p")
    assert folder(root).ids("train") == ["a", "b"]
    assert folder(root).check("train") == []


@pytest.mark.parametrize("image", [ACUTE, "e\u0301", "a1", "\u1e9b\u0323"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("suffixes", [(".png", ".PNG"), (".PNG", ".png"), (".Png", ".pNG"), (".JFIF", ".png")])
def test_a_label_map_is_found_in_another_unicode_form_and_suffix_case(root, image, form, suffixes):
    picture(root / f"images/train/{image}{suffixes[0]}")
    picture(root / f"labels/train/{unicodedata.normalize(form, image)}{suffixes[1]}", (8, 8))
    data = folder(root)
    name = unicodedata.normalize("NFC", image)
    assert name in data.ids("train")
    assert data.check("train") == []
    assert data.read("train", name).labels.shape == (8, 8)
    assert data.left_out(["train", "val"]) == {}
    assert folder(root).digest() == data.digest()


def test_two_images_with_one_name_are_both_named(root):
    picture(root / f"images/train/{ACUTE}.png")
    picture(root / "images/train/e\u0301.jpg")
    with pytest.raises(ClipteaError, match=rf"share a name: 'e\\u0301\.jpg' and '{ACUTE}\.png'"):
        folder(root).ids("train")


def test_a_label_map_that_is_no_file_is_said(root):
    (root / "labels/train/a.png").unlink()
    os.mkfifo(root / "labels/train/a.png")
    with pytest.raises(ClipteaError, match=r"labels/train/a\.png is a named pipe"):
        folder(root).check("train")


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"ignore_label": 0}, "'ignore_label' (perhaps ignore)"),
        ({"firstid": 1}, "'firstid' (perhaps first_id)"),
        ({"Classes": ["x"]}, "'Classes' (perhaps classes)"),
        ({"first_id": True}, "first_id: "),
        ({"first_id": "1"}, "first_id: "),
        ({"classes": ["x", 2]}, "classes: it is neither a list of names"),
        ({"classes": ["x", None]}, "classes: it is neither a list of names"),
        ({"unseen": ["z"]}, "unseen in classes.json names 'z'"),
        ({"first_id": float("nan")}, "NaN is not finite"),
    ],
)
def test_mistakes_in_classes_json_are_named(root, described, says):
    (root / "classes.json").write_text(json.dumps({"classes": ["x", "y"], "unseen": ["y"]} | described))
    with pytest.raises(ClipteaError) as caught:
        _ = folder(root).catalogue
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_classes_json_may_have_a_byte_order_mark_but_no_key_twice(root):
    (root / "classes.json").write_bytes(b'\xef\xbb\xbf{"classes": ["x", "y"], "unseen": ["y"]}')
    assert folder(root).catalogue.classes == ["x", "y"]
    (root / "classes.json").write_text('{"classes": ["x", "y"], "unseen": ["y"], "unseen": ["x"]}')
    with pytest.raises(ClipteaError, match="'unseen' appears twice"):
        _ = folder(root).catalogue
    (root / "classes.json").write_text("[" * 100_000)
    with pytest.raises(ClipteaError, match="nested too deeply"):
        _ = folder(root).catalogue
    (root / "classes.json").unlink()
    os.mkfifo(root / "classes.json")
    with pytest.raises(ClipteaError, match=r"classes\.json"):
        _ = folder(root).catalogue


ALIKE = [
    ("car", "Car"), ("traffic light", "traffic  light"), ("car", " car "), (ACUTE, "e\u0301"), ("STRASSE", "strasse"),
    ("a b", "a\u00a0b"), ("a&b", "a&amp;b"), ("fish", "\ufb01sh"), ("car", "\uff23\uff41\uff52"),
    ("lane1", "lane 1"), ("12", "1 2"), ("traffic-light", "traffic - light"), ("bus(red)", "bus (red)"),
    ("no.1", "no. 1"), ("road_1", "road _1"), ("men's shoe", "men\u2019s shoe"), ("men's shoe", "men 's shoe"),
    ("\"new\" car", "\u201cnew\u201d car"), ("car", "car\ufeff"), ("men's shoe", "men&rsquo;s shoe"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_are_one_to_clip_are_refused_with_both(one, other):
    open_clip = pytest.importorskip("open_clip")
    tokens = open_clip.get_tokenizer("ViT-B-16-quickgelu")([f"a photo of a {one}", f"a photo of a {other}"])
    assert (tokens[0] == tokens[1]).all() or "\ufb01" in other  # the truth, which depends on the version of ftfy
    for use in (require_distinct, lambda names: make_catalogue(names, ["sky"])):
        with pytest.raises(ConfigError) as caught:
            use(["sky", one, other])
        shown = re.search("the class names (.*) and (.*) have the same text embedding", str(caught.value))
        assert shown[1] != shown[2]  # even if they look the same
        assert [ast.literal_eval(text.replace("\u2423", " ")) for text in shown.groups()] == [one, other]


def test_random_names_are_one_where_their_tokens_are():
    open_clip = pytest.importorskip("open_clip")
    encode = open_clip.get_tokenizer("ViT-B-16-quickgelu").encode
    rng = np.random.default_rng(0)
    signs = [*"aBst\u00e912 _-.('\"&\u2019\u02bc\u201e\ufeff\u200b\x07\u0416\u4e2d\u0661"]
    names = {"".join(rng.choice(signs, rng.integers(1, 6))) for _ in range(3000)}
    tokens = {name: tuple(encode(name)) for name in names}
    texts = {name: as_text(name) for name in names}
    of_text = {texts[name]: tokens[name] for name in names}
    of_tokens = {tokens[name]: texts[name] for name in names}
    assert [name for name in names if of_text[texts[name]] != tokens[name]] == []  # one text, several tokens
    assert [name for name in names if of_tokens[tokens[name]] != texts[name]] == []  # the same tokens, several texts
    assert 200 < len(of_text) < len(names) - 200  # many names are alike, and many differ


def test_a_seen_class_is_known_in_each_form_that_clip_reads_alike():
    seen = ["lane1", "men's shoe", "bus(red)"]
    assert known_to(["lane 1", "lane 2", "men\u2019s shoe", "bus (red)", "bus red"], seen) == [
        "lane 1",
        "men\u2019s shoe",
        "bus (red)",
    ]


def test_names_that_differ_to_clip_are_kept():
    for name in ("voc12", "coco_stuff164k", "pascal_context"):
        require_distinct(facts(name).classes)
    require_distinct(CLASSES)
    require_distinct(["car", "cars", "race car", "racecar", "stra\u00dfe", "strasse"])
    with pytest.raises(ConfigError, match="is empty"):
        require_distinct(["car", " "])


def test_a_reason_without_paths_is_not_counted():
    assert count({"hidden": [], "a named pipe": ["x", "y"]}) == {"a named pipe": LeftOut(number=2, first=["x", "y"])}
