"""Result rows and their JSON."""

import json

import pytest
from pydantic import ValidationError

from cliptea.evaluation.results import ResultRow, dump_results, scalars

DESIGN_KEYS = [
    "variant", "group", "backbone", "dataset", "seed", "iterations", "gamma", "pAcc", "miou_seen",
    "miou_unseen", "hiou", "per_class", "training_images_per_second", "model_uri", "mlflow_run_id",
    "heldout_miou_seen", "inference", "trial",
]  # fmt: skip


def row(**changes) -> ResultRow:
    values = {
        "variant": "full",
        "group": "table3",
        "backbone": "demo_fpn",
        "dataset": "demo",
        "seed": 0,
        "iterations": 300,
        "gamma": 0.0,
        "pAcc": 0.9,
        "miou_seen": 0.75,
        "miou_unseen": 0.5,
        "hiou": 0.6,
        "per_class": {"zebra": 0.5, "cow": 0.75, "bee": None},
        "training_images_per_second": 100.0,
        "model_uri": "runs:/a/model",
        "mlflow_run_id": "a",
    }
    return ResultRow(**(values | changes))


def test_json_has_the_keys_of_the_design_and_comes_back_equal():
    rows = [row(), row(seed=1, miou_unseen=None, hiou=None), row(variant='ä"<b>')]
    items = json.loads(dump_results(rows))
    assert list(items[0]) == DESIGN_KEYS
    assert [ResultRow.model_validate(item) for item in items] == rows


def test_scores_are_finite_fractions():
    assert row(miou_unseen=None, per_class={"cow": None}).model_dump()["per_class"] == {"cow": None}
    with pytest.raises(ValidationError):
        row(hiou=1.01)
    with pytest.raises(ValidationError):
        row(hiuo=0.5)


def test_scalars_are_the_numbers_of_one_student_by_evaluation_set():
    rows = [row(), row(group="table4"), row(dataset="photos", miou_unseen=None, hiou=None, miou_seen=0.25)]
    own = {"hiou": 0.6, "miou_seen": 0.75, "miou_unseen": 0.5}
    assert scalars(rows) == own | {"photos/miou_seen": 0.25}
    assert scalars(rows[2:]) == {"miou_seen": 0.25}  # its own set, which is the first here
