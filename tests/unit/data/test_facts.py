"""Class lists, label values, layouts and counts: a few known points of each, and all of them where the notes are."""

import json
from pathlib import Path

import pytest
from miniatures import COCO_ABSENT

from cliptea.data.catalogue import make_catalogue
from cliptea.data.facts import facts

NOTES = Path(__file__).parents[4] / "shared/method/splits.json"
SETS = {"voc12": "voc12", "coco_stuff164k": "coco_stuff164k", "pascal_context": "pascal_context59"}


@pytest.mark.parametrize(
    ("name", "classes", "unseen", "known"),
    [
        ("voc12", 20, 5, {"aeroplane": 0, "person": 14, "tvmonitor": 19}),
        ("coco_stuff164k", 171, 15, {"person": 0, "stop sign": 11, "toothbrush": 79, "banner": 80, "wood": 170}),
        ("pascal_context", 59, 10, {"aeroplane": 0, "person": 36, "sky": 46, "wood": 58}),
    ],
)
def test_known_points(name, classes, unseen, known):
    catalogue = make_catalogue(facts(name).classes, facts(name).unseen)
    assert (len(catalogue.classes), len(catalogue.unseen_ids)) == (classes, unseen)
    assert {name: catalogue.classes.index(name) for name in known} == known


def test_unseen_classes_by_name():
    assert make_catalogue(facts("voc12").classes, facts("voc12").unseen).unseen_ids == [15, 16, 17, 18, 19]
    unseen = make_catalogue(facts("coco_stuff164k").classes, facts("coco_stuff164k").unseen)
    # Raw values of ZegFormer, CaGNet and zsseg, which start at 0 and have gaps.
    raw = [20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171]
    assert unseen.unseen_ids == [value - sum(absent < value for absent in COCO_ABSENT) for value in raw]


def test_orders_name_the_same_classes_and_common_names_are_classes():
    for name in SETS:
        known = facts(name)
        assert all(sorted(order) == sorted(known.values) for order in known.orders.values())
        assert set(known.common) <= set(known.values)
        assert set(known.classless) < set(known.values)
        assert {known.train, "val"} <= set(known.splits)


@pytest.mark.skipif(
    not NOTES.is_file(), reason="compares with reference notes that are not shipped; the other tests pin the same facts"
)
@pytest.mark.parametrize("name", list(SETS))
def test_facts_are_those_of_the_notes(name):
    notes, known = json.loads(NOTES.read_text())[SETS[name]], facts(name)
    assert known.classes == notes["class_names"]
    assert sorted(known.unseen) == sorted(notes["unseen_names"])
    assert make_catalogue(known.classes, known.unseen).unseen_ids == notes["unseen_ids"]
    rule = notes["label_rule"]
    table = {int(value): number for value, number in (rule.get("lut") or rule["mmseg_png_lut"]).items()}
    assert dict(enumerate(known.train_ids(known.labels[0]))) | {255: 255} == table
    assert known.train == notes["paper_train_split"]
    counts = {split: [number] for split, number in notes["image_counts"].items()}
    for split, number in notes.get("image_counts_original_mat_release", {}).items():
        counts[split].append(number)
    assert {split: found.images for split, found in known.splits.items()} == counts
    layout = notes["layout"]
    described = json.dumps(layout).replace("{train2017,val2017}", "{folder}").replace("{id:012d}", "{id}")
    for labels in known.labels:
        assert labels.path in described
    assert known.images in described
    assert known.roots[-1] == layout["root"]
    for split in known.splits.values():
        assert split.file in described


@pytest.mark.skipif(
    not NOTES.is_file(), reason="compares with reference notes that are not shipped; the other tests pin the same facts"
)
def test_other_lists_are_those_of_the_notes():
    notes = json.loads(NOTES.read_text())
    assert (
        facts("pascal_context").orders["the 20 VOC classes first"][1:]
        == notes["pascal_context59"]["order_vocfirst_zs3"]
    )
    assert facts("coco_stuff164k").classless == notes["coco_stuff164k"]["label_rule"]["excluded_raw_names"]
    assert list(COCO_ABSENT) == notes["coco_stuff164k"]["label_rule"]["excluded_raw_values"]
