"""The published data sets from miniatures of their releases: labels by independent tables, layouts, wrong labels."""

import re
import shutil

import numpy as np
import pytest
from miniatures import COCO_ABSENT, coco_stuff164k, pascal_context, train_ids, voc12, write_mask
from PIL import Image

from cliptea import settings
from cliptea.config import Config, DataConfig
from cliptea.data.datasets import open_dataset, train_images
from cliptea.data.facts import facts
from cliptea.data.records import LABEL
from cliptea.data.sample import decode_labels
from cliptea.data.shards import ShardReader
from cliptea.errors import ClipteaError, ConfigError, DataError
from cliptea.run import Run
from cliptea.steps.split import make_splits
from cliptea.storage import open_store

# Independent of the package: raw value -> train id.
TABLES = {
    "voc12": train_ids(range(1, 21)),
    "coco_stuff164k": train_ids([value for value in range(182) if value not in COCO_ABSENT]),
    "pascal_context": train_ids(range(1, 60)),
}
UNSEEN = {
    "voc12": range(15, 20),
    "coco_stuff164k": [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160],
    "pascal_context": [0, 6, 7, 14, 19, 24, 31, 33, 48, 54],
}
SETS = {
    "voc12": (voc12, {}),
    "voc12, all masks in SegmentationClassAug, no trainaug.txt": (voc12, {"aug_has_all": True, "trainaug": False}),
    "coco_stuff164k": (coco_stuff164k, {}),
    "coco_stuff164k, converted": (coco_stuff164k, {"converted": True}),
    "pascal_context": (pascal_context, {}),
}


def opened(writer, root, **options):
    return open_dataset(DataConfig(dataset=writer.__name__, root=str(root), **options))


def split(root, dataset, monkeypatch, **options):
    monkeypatch.setenv("CLIPTEA_STORE", (root / "store").as_uri())
    config = Config(data=DataConfig(dataset=dataset, root=str(root / "data"), **options))
    digest = open_dataset(config.data).digest()
    run = Run(config=config, data_digest=digest, fingerprint="f", job_id="j", tracking_run="t", variants=[])
    return make_splits(run).own


@pytest.mark.parametrize("case", list(SETS))
def test_shards_hold_the_labels_of_an_independent_table(case, tmp_path, monkeypatch):
    writer, options = SETS[case]
    name = writer.__name__
    drawn = writer(tmp_path / "data", **options)
    made = split(tmp_path, name, monkeypatch)
    table, unseen = TABLES[name], list(UNSEEN[name])
    wanted = {"train": drawn["train"] | drawn.get("aug", {}), "val": drawn["val"]}
    images = {path.stem: path for path in (tmp_path / "data").rglob("*.jpg")}
    found = {}
    for part, labels in wanted.items():
        reader = ShardReader(open_store(), made.objects, part)
        assert reader.names == sorted(labels)
        for image in reader.names:
            stored, true = decode_labels(reader.read(image, LABEL), image), table[labels[image]]
            if part == "train":
                true = np.where(np.isin(true, unseen), 255, true)
            np.testing.assert_array_equal(stored, true)
            assert reader.read(image, "jpg") == images[image].read_bytes()
            found.setdefault(part, []).append(stored.ravel())
        counts = made.info["counts"][part]
        pixels = np.bincount(np.concatenate(found[part]), minlength=256)
        assert [counts["classes"][c]["pixels"] for c in facts(name).classes] == pixels[
            : len(facts(name).classes)
        ].tolist()
        assert (counts["images"], counts["unlabelled_pixels"]) == (len(labels), pixels[255])
    assert not set(np.unique(np.concatenate(found["train"]))) & set(unseen)
    assert set(np.unique(np.concatenate(found["val"]))) == {*range(len(facts(name).classes)), 255}
    assert sum("cannot be compared with published ones" in problem for problem in made.info["problems"]) == 2


@pytest.mark.parametrize("writer", [voc12, coco_stuff164k, pascal_context])
def test_a_split_is_read_where_only_it_is_there(writer, tmp_path):
    drawn = writer(tmp_path)
    for path in tmp_path.rglob("*"):
        train = path.stem.split("_labelTrainIds")[0] not in drawn["val"]
        if path.is_file() and (path.name != "val.txt" if path.suffix == ".txt" else train):
            path.unlink()
    dataset = opened(writer, tmp_path)
    assert dataset.ids("val") == sorted(drawn["val"])
    assert len(dataset.check("val")) == 1
    for name in drawn["val"]:
        np.testing.assert_array_equal(dataset.read("val", name).labels, TABLES[writer.__name__][drawn["val"][name]])
    before = dataset.digest(("val",))
    image = next(tmp_path.rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    assert opened(writer, tmp_path).digest(("val",)) != before
    with pytest.raises(DataError):
        dataset.ids("train")


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2012", "VOCdevkit", ""])
def test_the_root_may_be_any_folder_above(below, tmp_path):
    drawn = voc12(tmp_path)
    assert opened(voc12, tmp_path / below).ids("val") == sorted(drawn["val"])


def test_a_root_without_the_data_set_says_where_it_looked(tmp_path):
    (tmp_path / "VOC2012").mkdir()
    with pytest.raises(DataError) as caught:
        opened(voc12, tmp_path).ids("val")
    for folder in ("", "/VOC2012", "/VOCdevkit/VOC2012"):
        assert f"{tmp_path}{folder}/ImageSets/Segmentation" in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "VOC2012"]
    with pytest.raises(DataError, match=r"is not a folder \(missing\); expected the folder of PASCAL VOC 2012"):
        opened(voc12, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(ConfigError, match=r"data\.root is not set"):
        open_dataset(DataConfig(dataset="voc12"))


def test_voc_trains_on_the_list_that_is_asked_for(tmp_path):
    drawn = voc12(tmp_path, trainaug=False)
    assert opened(voc12, tmp_path).ids("train") == sorted(drawn["train"] | drawn["aug"])
    assert opened(voc12, tmp_path, train_list="train").ids("train") == sorted(drawn["train"])
    assert opened(voc12, tmp_path, train_list="train").digest() != opened(voc12, tmp_path).digest()
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "aug.txt").unlink()
    with pytest.raises(DataError, match=r"aug\.txt is missing; expected .*trainaug\.txt.*set data\.train_list=train"):
        opened(voc12, tmp_path).ids("train")
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClass/{name}.png\r\n" for name in drawn["train"]]
    (lists / "trainaug.txt").write_text("".join(lines))
    assert opened(voc12, tmp_path).ids("train") == sorted(drawn["train"])
    (tmp_path / "coco").mkdir()
    coco_stuff164k(tmp_path / "coco")
    with pytest.raises(
        ClipteaError, match=r"data\.train_list=trainaug does not exist for .*; expected one of train, val"
    ):
        opened(coco_stuff164k, tmp_path / "coco", train_list="trainaug").ids("train")


def test_the_number_of_training_images_needs_no_data():
    assert train_images(DataConfig(dataset="voc12")) == 10582
    assert train_images(DataConfig(dataset="voc12", train_list="train")) == 1464
    assert train_images(DataConfig(dataset="coco_stuff164k")) == 118287
    assert train_images(DataConfig()) == 800
    assert train_images(DataConfig(dataset="folder")) is None


def test_published_counts_raise_no_warning(tmp_path, monkeypatch):
    pascal_context(tmp_path)
    dataset = opened(pascal_context, tmp_path)
    pair = next(iter(dataset.pairs("val").values()))
    for number, warnings in ((5104, 0), (5105, 0), (5103, 1)):
        pairs = dict.fromkeys(range(number), pair)
        monkeypatch.setattr(dataset, "pairs", lambda split, pairs=pairs: pairs)
        assert len(dataset.check("val")) == warnings


def test_unseen_classes_can_be_chosen(tmp_path, monkeypatch):
    voc12(tmp_path / "data")
    made = split(tmp_path, "voc12", monkeypatch, unseen=["cat", "dog"])
    train = made.info["counts"]["train"]["classes"]
    assert [name for name in train if not train[name]["pixels"]] == ["cat", "dog"]
    with pytest.raises(ClipteaError, match="'background'"):
        _ = opened(voc12, tmp_path / "data", unseen=["background"]).catalogue


def test_reading_leaves_the_raw_data_as_they_are(tmp_path):
    voc12(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dataset = opened(voc12, tmp_path)
    for part in ("train", "val"):
        dataset.check(part)
        assert all(dataset.read(part, name).extension == "jpg" for name in dataset.ids(part))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Wrong labels. Each of these changes the val split of a miniature.


def masks(root, folder):
    return sorted((root / folder).glob("*.png"))


def change(root, folder, function):
    for path in masks(root, folder):
        write_mask(path, function(np.array(Image.open(path))).astype(np.uint8))


VOC = "VOCdevkit/VOC2012/SegmentationClass"
COCO = "stuffthingmaps/val2017"
CONTEXT = "VOCdevkit/VOC2010/SegmentationClassContext"


def palette_colours(path):
    image = Image.open(path).convert("RGB")
    image.save(path)


def test_voc_masks_in_voc_colours_are_turned_back_into_values(tmp_path):
    drawn = voc12(tmp_path)
    for path in masks(tmp_path, VOC):
        palette_colours(path)
    dataset = opened(voc12, tmp_path)
    for name, raw in drawn["val"].items():
        assert Image.open(tmp_path / VOC / f"{name}.png").mode == "RGB"
        np.testing.assert_array_equal(dataset.read("val", name).labels, TABLES["voc12"][raw])
    name = min(drawn["val"])
    array = np.array(Image.open(tmp_path / VOC / f"{name}.png"))
    array[3, 4] = (1, 2, 3)
    Image.fromarray(array).save(tmp_path / VOC / f"{name}.png")
    with pytest.raises(DataError, match=rf"{name}\.png holds the colours #010203 \(1 pixel\); .*VOC colour map"):
        dataset.check("val")


@pytest.mark.parametrize(("writer", "folder"), [(coco_stuff164k, COCO), (pascal_context, CONTEXT)])
def test_coloured_masks_are_refused_elsewhere(writer, folder, tmp_path):
    writer(tmp_path)
    for path in masks(tmp_path, folder):
        palette_colours(path)
    with pytest.raises(DataError, match=r"0*\d+\.png has pixel mode RGB: colours, not label values"):
        opened(writer, tmp_path).check("val")


def scene(common, number, size=(16, 16), fill=0):
    """A map of `common[number % 2 :]` and the value `fill`."""
    labels = np.full(size, fill, dtype=np.uint8)
    for column, value in enumerate(common[number % 2 :]):
        labels[:, column] = value
    return labels


@pytest.mark.parametrize(
    ("writer", "folder", "values", "fill", "says"),
    [
        (voc12, VOC, [14, 3, 7], 255, "hold train ids (aeroplane is 0); expected released values (background is 0)"),
        (coco_stuff164k, COCO, [169, 157, 96, 172], 0, "hold values that start at 1 (person is 1)"),
        (coco_stuff164k, COCO, [157, 145, 84, 160], 255, "hold train ids (person is 0)"),
        (pascal_context, CONTEXT, [50, 15, 36, 54, 25], 0, "hold the 20 VOC classes first"),
        (pascal_context, CONTEXT, [46, 36, 28, 52, 10], 255, "hold train ids (aeroplane is 0)"),
    ],
)
def test_another_order_of_the_values_is_recognised(writer, folder, values, fill, says, tmp_path):
    drawn = writer(tmp_path, images=12)
    for number, name in enumerate(drawn["val"]):
        write_mask(tmp_path / folder / f"{name}.png", scene(values, number, fill=fill))
    with pytest.raises(DataError) as caught:
        opened(writer, tmp_path).check("val")
    assert says in str(caught.value)
    assert f"{min(drawn['val'])}.png" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("writer", "folder", "values", "fill"),
    [
        (voc12, VOC, [15, 4, 8], 0),
        (coco_stuff164k, COCO, [168, 156, 95, 171], 255),
        (pascal_context, CONTEXT, [47, 37, 29, 53, 11], 0),
    ],
)
def test_the_released_order_is_accepted(writer, folder, values, fill, tmp_path):
    drawn = writer(tmp_path, images=12)
    for number, name in enumerate(drawn["val"]):
        write_mask(tmp_path / folder / f"{name}.png", scene(values, number, fill=fill))
    assert len(opened(writer, tmp_path).check("val")) == 1


@pytest.mark.parametrize(
    ("writer", "folder", "function", "says"),
    [
        (voc12, VOC, lambda raw: np.where(raw == 20, 27, raw), r"label ids 27 \(\d+ pixels\); expected 0 to 20 or 255"),
        (coco_stuff164k, COCO, lambda raw: np.where(raw < 182, raw + 1, 0), "official ids 1 to 182 are lowered by 1"),
        (pascal_context, CONTEXT, lambda raw: raw * 4, "the 459-class maps"),
    ],
)
def test_values_past_the_last_one_are_refused(writer, folder, function, says, tmp_path):
    writer(tmp_path)
    change(tmp_path, folder, function)
    with pytest.raises(DataError) as caught:
        opened(writer, tmp_path).check("val")
    assert re.search(says, str(caught.value))
    assert str(tmp_path / folder) in str(caught.value)


def test_raw_values_under_the_name_of_train_ids_are_refused(tmp_path):
    coco_stuff164k(tmp_path, converted=True)
    for path in masks(tmp_path, "annotations/val2017"):
        if "label" not in path.name:
            shutil.copy(path, path.with_name(f"{path.stem}_labelTrainIds.png"))
    with pytest.raises(DataError, match=r"_labelTrainIds\.png holds the label ids .*expected 0 to 170 or 255.*raw ids"):
        opened(coco_stuff164k, tmp_path).check("val")


def test_sixteen_bits_are_read_when_they_fit(tmp_path):
    drawn = pascal_context(tmp_path)
    name = min(drawn["val"])
    path = tmp_path / CONTEXT / f"{name}.png"
    Image.fromarray(drawn["val"][name].astype(np.uint16)).save(path)
    dataset = opened(pascal_context, tmp_path)
    np.testing.assert_array_equal(dataset.read("val", name).labels, TABLES["pascal_context"][drawn["val"][name]])
    Image.fromarray(drawn["val"][name].astype(np.uint16) * 7).save(path)
    with pytest.raises(DataError, match=rf"{name}\.png holds the label ids .*459-class"):
        dataset.read("val", name)


def test_missing_files_are_counted_before_anything_is_read(tmp_path):
    voc12(tmp_path)
    for path in masks(tmp_path, "VOCdevkit/VOC2012/SegmentationClassAug"):
        path.unlink()
    with pytest.raises(DataError, match=r"2008_000001\.png is missing, and 3 more; .*data\.train_list=train"):
        opened(voc12, tmp_path).check("train")
    coco_stuff164k(tmp_path)
    shutil.rmtree(tmp_path / "stuffthingmaps/val2017")
    with pytest.raises(DataError, match=r"/stuffthingmaps/val2017/\{id\}\.png or /.*annotations/val2017/\{id\}_label"):
        opened(coco_stuff164k, tmp_path).ids("val")


@pytest.mark.parametrize("preset", ["voc12", "coco_stuff164k", "pascal_context"])
def test_presets_are_the_papers(preset, tmp_path):
    config = settings.load(preset, ["variants=[backbones]", f"data.root={tmp_path}"])
    iterations, templates = {
        "voc12": (20000, "single"),
        "coco_stuff164k": (80000, "multi"),
        "pascal_context": (40000, "multi"),
    }[preset]
    assert (config.data.dataset, config.train.iterations, config.teacher.templates) == (preset, iterations, templates)
    assert (config.train.batch_size, config.evaluation.gamma, config.teacher.crop) == (16, 1.5, 512)
    assert (config.teacher.weights, config.student.pretrained) == ("openai", True)
    known = facts(preset)
    times = iterations * 16 / known.splits[known.train].images[0] / config.teacher.views
    assert 3 < times <= 8.1  # how often a student meets a view


def test_a_list_that_is_not_utf8_is_named(tmp_path):
    voc12(tmp_path)
    (file,) = tmp_path.rglob("val.txt")
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"val\.txt is not UTF-8; expected one id per line, in UTF-8"):
        opened(voc12, tmp_path).ids("val")
